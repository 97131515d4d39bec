"""A decode step of the same shapes whatever the lengths of its slots, which are tensors on the device."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .kv_cache import FULL, SLIDING, KVCache


@dataclass(frozen=True, eq=False)
class StaticSpan:
    """The positions that queries look at: the first ``length`` of every slot, or those of ``indices``.

    ``mask`` is what to add to scores, ``[batch, 1, 1, positions]``; ``indices`` are ``[batch, positions]``.
    """

    length: int
    mask: Tensor
    indices: Tensor | None = None


class StaticStep:
    """Does for layers what `CacheStep` does, for one new position of each slot.

    A slot may be there twice, with the same position and the same token.
    """

    num_new = 1

    def __init__(self, cache: KVCache, slots: Tensor, positions: Tensor, length: int) -> None:
        """``slots`` is int64 ``[batch]``, ``positions`` int64 ``[batch, 1]``, all below ``length``."""
        self.positions = positions
        self.cache = cache
        self.slot_ids = slots
        self.longest = length
        self.shared: dict[int, tuple[Tensor, Tensor]] = {}  # as a CacheStep's

    @cached_property
    def spans(self) -> dict[str, StaticSpan]:
        """What there is to see, by layer type; our own kernels do not ask."""
        positions, length, window = self.positions, self.longest, self.cache.sliding_window
        keys = torch.arange(length, device=positions.device)
        everything = StaticSpan(length, self._mask(keys <= positions))
        if length <= window:
            return {FULL: everything, SLIDING: everything}
        behind = positions - torch.arange(window - 1, -1, -1, device=positions.device)
        return {FULL: everything, SLIDING: StaticSpan(window, self._mask(behind >= 0), behind.clamp(min=0))}

    def write(self, owner: int, keys_and_values: Tensor) -> None:
        """Writes ``[batch, 2, kv_heads, head_dim]`` to the layer that owns them."""
        self.cache.layers[owner].index_put_((self.slot_ids, self.positions[:, 0]), keys_and_values)

    def read(self, owner: int, span: StaticSpan) -> tuple[Tensor, Tensor]:
        """Returns keys and values, each ``[batch, kv_heads, positions, head_dim]``."""
        layer = self.cache.layers[owner]
        if span.indices is None:
            seen = layer[:, : span.length].index_select(0, self.slot_ids)
        else:
            seen = layer[self.slot_ids[:, None], span.indices]
        keys, values = seen.unbind(2)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _mask(self, is_seen: Tensor) -> Tensor:
        return self.cache.mask(is_seen)[:, None, None]
