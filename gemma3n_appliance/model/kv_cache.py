"""Keys and values of every slot, kept between steps.

Only the layers that compute keys and values own any: the last ``num_kv_shared_layers`` read those of the last
owning layer of their type.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from .sending import sent

FULL = "full_attention"
SLIDING = "sliding_attention"

_SMALLEST_CAPACITY = 256
_MASK_STEP = 16


def bytes_per_position(config: Gemma3nTextConfig, dtype: torch.dtype) -> int:
    """Returns what a token's keys and values take in a slot."""
    num_owning_layers = config.num_hidden_layers - config.num_kv_shared_layers
    return num_owning_layers * 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize


class KVCache:
    """One tensor per owning layer, ``[num_slots, capacity, 2 (keys, values), kv_heads, head_dim]``.

    ``capacity`` is common to all slots and doubles up to ``max_context`` as longer requests arrive: a board
    that only ever sees short chats never pays for the whole context.
    """

    def __init__(
        self,
        config: Gemma3nTextConfig,
        num_slots: int,
        max_context: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.max_context = max_context
        self.generation = 0  # counts how often the tensors were replaced
        self.sliding_window: int = config.sliding_window
        self.lengths = [0] * num_slots
        shape = (num_slots, 0, 2, config.num_key_value_heads, config.head_dim)
        num_owning_layers = config.num_hidden_layers - config.num_kv_shared_layers
        self.layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_owning_layers)]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.layers[0].device

    @property
    def dtype(self) -> torch.dtype:
        """What they are made of."""
        return self.layers[0].dtype

    @property
    def num_bytes(self) -> int:
        """What the tensors take at present."""
        return sum(layer.nbytes for layer in self.layers)

    def reserve(self, length: int) -> None:
        """Makes room for ``length`` positions in every slot, keeping what is there.

        Raises:
            torch.OutOfMemoryError: there is no room; what the slots hold is unharmed.
        """
        capacity = _SMALLEST_CAPACITY
        while capacity < length:
            capacity *= 2
        for index in range(len(self.layers)):
            self._grow(index, min(capacity, self.max_context))

    @property
    def capacity(self) -> int:
        """Positions that there is room for in every slot."""
        return self.layers[-1].shape[1]

    def _grow(self, index: int, capacity: int) -> None:
        layer = self.layers[index]
        held = layer.shape[1]
        if held < capacity:
            # Zeros, not whatever was in memory: a masked NaN still makes attention NaN.
            grown = layer.new_zeros((layer.shape[0], capacity, *layer.shape[2:]))
            grown[:, :held] = layer
            self.layers[index] = grown
            self.generation += 1

    def clear(self, slot: int) -> None:
        """Empties a slot; its numbers go too, because NaN among them would reach its next tenant."""
        self.lengths[slot] = 0
        for layer in self.layers:
            layer[slot].zero_()

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives one slot the first positions of another."""
        for layer in self.layers:
            layer[target, :length] = layer[source, :length]

    def mask(self, is_seen: Tensor) -> Tensor:
        """Returns what to add to scores: nothing where a position is seen, else minus infinity."""
        nothing = torch.zeros((), device=self.device, dtype=self.dtype)
        return torch.where(is_seen, nothing, -torch.inf)

    def step(self, slots: Sequence[int], num_new: int) -> "CacheStep":
        """Returns a view for one forward pass over ``num_new`` further positions of each of ``slots``."""
        return CacheStep(self, tuple(slots), tuple(self.lengths[slot] for slot in slots), num_new)


@dataclass(frozen=True)
class Span:
    """The positions that the queries of a step look at, in layers of one type: ``[start, end)``.

    ``mask`` is what to add to scores, ``[batch, 1, num_new, end - start]``, or None where every query sees
    all, or, if ``is_causal``, all that is not after it.
    """

    start: int
    end: int
    mask: Tensor | None = None
    is_causal: bool = False


@dataclass(frozen=True, eq=False)
class Blocks:
    """Parts of a prompt that look at as many positions each, in layers that slide.

    They have ``size`` queries each and follow each other, as do the positions that they look at: the first
    ``num_seen`` from ``start`` on, the next a window later. ``mask`` is what to add to scores, ``[size,
    num_seen]``, or None where every query sees all that is not after it.
    """

    queries: slice
    size: int
    start: int
    num_seen: int
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class CacheStep:
    """What one forward pass reads and writes: ``num_new`` positions of each slot, from its start on.

    ``shared`` is what several layers read, by the layer that owns it, until the pass ends.
    """

    cache: KVCache
    slots: tuple[int, ...]
    starts: tuple[int, ...]
    num_new: int
    shared: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def positions(self) -> Tensor:
        """The new ones, int64 ``[batch, num_new]``, where the cache is."""
        first = sent(self.starts, self.cache.device)
        return first[:, None] + torch.arange(self.num_new, device=self.cache.device)

    @property
    def longest(self) -> int:
        """Where the longest slot ends after this step."""
        return max(self.starts) + self.num_new

    @cached_property
    def slot_ids(self) -> Tensor:
        """The slots, int64 ``[batch]``, where the cache is."""
        return sent(self.slots, self.cache.device)

    @cached_property
    def spans(self) -> dict[str, Span]:
        """What there is to see, by layer type."""
        return {FULL: self._span(None), SLIDING: self._span(self.cache.sliding_window)}

    @cached_property
    def blocks(self) -> list[Blocks]:
        """A prompt of a window or more in parts of one, whose queries see keys of two windows at most."""
        window, (start,) = self.cache.sliding_window, self.starts
        end = self.num_new - self.num_new % window
        made = [self._blocks(slice(0, window), max(0, start + 1 - window))]
        if end > window:
            made.append(self._blocks(slice(window, end), start))
        if end < self.num_new:
            made.append(self._blocks(slice(end, self.num_new), start + end - window))
        return made

    def _blocks(self, queries: slice, start: int) -> Blocks:
        size = min(queries.stop - queries.start, self.cache.sliding_window)
        first = self.starts[0] + queries.start
        if start == first:
            return Blocks(queries, size, start, size, None)
        # A GPU's attention copies a mask whose rows are no multiple of that long.
        start -= min(start, -(first + size - start) % _MASK_STEP)
        num_seen = first + size - start
        mask = self._window_mask(first, size, start, num_seen)
        return Blocks(queries, size, start, num_seen, mask)

    def _window_mask(self, first: int, num_queries: int, start: int, num_seen: int) -> Tensor:
        queries = torch.arange(first, first + num_queries, device=self.cache.device)
        behind = queries[:, None] - torch.arange(start, start + num_seen, device=self.cache.device)
        return self.cache.mask((behind >= 0) & (behind < self.cache.sliding_window))

    def _span(self, window: int | None) -> Span:
        start = 0 if window is None else max(0, min(self.starts) + 1 - window)
        if self.num_new == 1 and len(set(self.starts)) == 1:
            return Span(start, self.longest)
        if self.longest == self.num_new and (window is None or self.num_new <= window):
            return Span(0, self.longest, is_causal=True)
        keys = torch.arange(start, self.longest, device=self.cache.device)
        queries = self.positions[:, None, :, None]
        is_seen = keys <= queries
        if window is not None:
            is_seen &= keys > queries - window
        return Span(start, self.longest, self.cache.mask(is_seen))

    def last(self) -> "CacheStep":
        """Returns a view for the last of the new positions alone."""
        starts = tuple(start + self.num_new - 1 for start in self.starts)
        return CacheStep(self.cache, self.slots, starts, 1)

    def write(self, owner: int, keys_and_values: Tensor) -> None:
        """Writes ``[batch * num_new, 2, kv_heads, head_dim]`` to the layer that owns them."""
        layer = self.cache.layers[owner]
        if len(self.slots) == 1:
            layer[self.slots[0]].narrow(0, self.starts[0], self.num_new).copy_(keys_and_values)
        else:
            new = keys_and_values.view(len(self.slots), self.num_new, *keys_and_values.shape[1:])
            layer.index_put_((self.slot_ids[:, None], self.positions), new)

    def read(self, owner: int, span: Span) -> tuple[Tensor, Tensor]:
        """Returns keys and values, each ``[batch, kv_heads, span, head_dim]``.

        Beyond a slot's own length there are zeros or stale numbers: the span's mask hides them.
        """
        layer = self.cache.layers[owner]
        first = self.slots[0]
        if self.slots == tuple(range(first, first + len(self.slots))):
            seen = layer.narrow(0, first, len(self.slots))  # neighbours need no copy
            seen = seen.narrow(1, span.start, span.end - span.start)
        else:
            seen = layer[self.slot_ids, span.start : span.end]
        keys, values = seen.unbind(2)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def commit(self) -> None:
        """Counts the new positions in; a pass that failed never gets here and has added nothing."""
        for slot in self.slots:
            self.cache.lengths[slot] += self.num_new
