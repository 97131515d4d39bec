"""Rotary position embedding: by how much heads are turned, and turning them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Turn:
    """By how much heads are turned: cosines, and sines signed for a roll by half.

    Each is ``[num_tokens, heads, head_dim]``.
    """

    cosines: Tensor
    sines: Tensor

    @cached_property
    def _half(self) -> int:
        return self.sines.shape[-1] // 2

    @cached_property
    def _negative_sines(self) -> Tensor:
        return self.sines[..., : self._half].repeat(1, 1, 2)

    def of(self, heads: Tensor) -> Tensor:
        """Returns heads ``[num_tokens, heads, head_dim]``, turned."""
        return torch.addcmul(heads * self.cosines, heads.roll(self._half, -1), self.sines)

    def of_both(self, both: Tensor) -> Tensor:
        """Does the same for heads with their negatives behind them, ``[num_tokens, heads, 2 * head_dim]``.

        From the middle of a head to that of its negative, it lies there rolled, its second half negated: so
        both halves take the sines of the first.
        """
        heads, rolled = both[..., : 2 * self._half], both[..., self._half : 3 * self._half]
        return torch.addcmul(heads * self.cosines, rolled, self._negative_sines)


@dataclass(frozen=True, eq=False)
class Rotation:
    """How far tokens' heads are turned in layers of one type.

    ``cosines``, and ``sines`` signed for a roll by half, are ``[num_tokens, kinds + 1, head_dim]``: a row for
    each layer type, ``kind`` being this one's, and one that turns nothing, as of values. ``rows`` says which
    of them the heads of queries, keys and values take.
    """

    cosines: Tensor
    sines: Tensor
    kind: int
    rows: Tensor
    _turns: dict[tuple[int, int], Turn] = field(default_factory=dict, init=False, repr=False)

    def of_heads(self, first: int, end: int) -> Turn:
        """By how much the heads from ``first`` to ``end`` are turned."""
        if (first, end) not in self._turns:
            rows = self.rows[first:end]
            turn = Turn(self.cosines.index_select(1, rows), self.sines.index_select(1, rows))
            self._turns[first, end] = turn
        return self._turns[first, end]

    @property
    def of_kind(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of queries and keys, each ``[num_tokens, head_dim]``."""
        return self.cosines[:, self.kind], self.sines[:, self.kind]
