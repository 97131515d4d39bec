"""Keys and values of every slot, kept between steps, behind the two calls transformers makes of a cache.

Only the layers that compute keys and values own any: the last ``num_kv_shared_layers`` read what the last
owning layer of their type has returned in the same step, which transformers hands over by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

_SMALLEST_CAPACITY = 256


class KVCache:
    """One tensor per owning layer, ``[2 (keys, values), num_slots, kv_heads, capacity, head_dim]``.

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
        self.sliding_window: int = config.sliding_window
        self.lengths = [0] * num_slots
        shape = (2, num_slots, config.num_key_value_heads, 0, config.head_dim)
        num_owning_layers = config.num_hidden_layers - config.num_kv_shared_layers
        self._layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_owning_layers)]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._layers[0].device

    @property
    def num_bytes(self) -> int:
        """What the tensors take at present."""
        return sum(layer.nbytes for layer in self._layers)

    def reserve(self, length: int) -> None:
        """Makes room for ``length`` positions in every slot, keeping what is there.

        Raises:
            torch.OutOfMemoryError: there is no room; what the slots hold is unharmed.
        """
        capacity = _SMALLEST_CAPACITY
        while capacity < length:
            capacity *= 2
        for index in range(len(self._layers)):
            self._grow(index, min(capacity, self.max_context))

    def _grow(self, index: int, capacity: int) -> None:
        layer = self._layers[index]
        held = layer.shape[3]
        if held < capacity:
            # Zeros, not whatever was in memory: a masked NaN still makes attention NaN.
            grown = layer.new_zeros((*layer.shape[:3], capacity, layer.shape[4]))
            grown[:, :, :, :held] = layer
            self._layers[index] = grown

    def clear(self, slot: int) -> None:
        """Empties a slot; its numbers go too, because NaN among them would reach its next tenant."""
        self.lengths[slot] = 0
        for layer in self._layers:
            layer[:, slot].zero_()

    def step(self, slots: Sequence[int], num_new: int) -> "CacheStep":
        """Returns a view for one forward pass over ``num_new`` further positions of each of ``slots``."""
        starts = torch.tensor([self.lengths[slot] for slot in slots], device=self.device)
        positions = starts[:, None] + torch.arange(num_new, device=self.device)
        longest = max(self.lengths[slot] for slot in slots) + num_new
        rows = torch.tensor(slots, device=self.device)
        return CacheStep(self, self._layers, tuple(slots), rows, positions, longest)


@dataclass(frozen=True)
class CacheStep:
    """What one forward pass reads and writes; transformers takes it for its ``Cache``.

    ``rows`` is ``slots`` as int64 ``[batch]``; ``positions`` is int64 ``[batch, num_new]``. Every tensor it
    hands out ends at ``longest`` positions.
    """

    cache: KVCache
    layers: list[Tensor]
    slots: tuple[int, ...]
    rows: Tensor
    positions: Tensor
    longest: int

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Writes ``[batch, kv_heads, num_new, head_dim]`` and returns all ``longest`` positions so far.

        Beyond a slot's own length there are zeros or stale numbers: the masks hide them.
        """
        keys, values = self.layers[layer_idx].unbind(0)
        rows = self.rows[:, None]
        # Indices on either side of a slice come first in the result: [batch, num_new, kv_heads, head_dim].
        keys[rows, :, self.positions] = key.transpose(1, 2)
        values[rows, :, self.positions] = value.transpose(1, 2)
        return self._read(keys), self._read(values)

    def _read(self, stored: Tensor) -> Tensor:
        first = self.slots[0]
        if self.slots == tuple(range(first, first + len(self.slots))):
            return stored[first : first + len(self.slots), :, : self.longest]  # neighbours need no copy
        return stored[self.rows, :, : self.longest]

    def masks(self) -> dict[str, Tensor]:
        """Returns who may look at whom, by layer type: bool ``[batch, 1, num_new, longest]``."""
        queries = self.positions[:, None, :, None]
        keys = torch.arange(self.longest, device=queries.device)
        causal = keys <= queries
        return {
            "full_attention": causal,
            "sliding_attention": causal & (keys > queries - self.cache.sliding_window),
        }

    def commit(self) -> None:
        """Counts the new positions in; a pass that failed never gets here and has added nothing."""
        for slot in self.slots:
            self.cache.lengths[slot] += self.positions.shape[1]
