"""What enters the layers: tokens' embeddings, and their rows of the per-layer table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .per_layer_table import PerLayerTable
from .sending import sent


class Rows(Protocol):
    """Rows of the table, ``[num_tokens, num_layers * width]``, where and in what the model computes."""

    @property
    def are_here(self) -> bool:
        """Whether asking for all of them costs nothing."""
        ...

    def of(self, columns: slice) -> Tensor:
        """Returns ``[num_tokens, columns]``."""
        ...

    def last(self) -> "Rows":
        """Returns the last token's."""
        ...


@dataclass(frozen=True)
class Tokens:
    """Embeddings ``[num_tokens, hidden_size]``, and the tokens' rows of the table."""

    hidden: Tensor
    rows: Rows

    def last(self) -> "Tokens":
        """Returns the last one alone."""
        return Tokens(self.hidden[-1:], self.rows.last())


@dataclass(frozen=True)
class HeldRows:
    """Those of one token of each slot."""

    rows: Tensor
    are_here = True

    def of(self, columns: slice) -> Tensor:
        """See `Rows`."""
        return self.rows[:, columns]

    def last(self) -> "HeldRows":
        """See `Rows`."""
        return HeldRows(self.rows[-1:])


class PromptRows:
    """Those of a prompt's tokens, read when they are asked for: a GPU is busy meanwhile with what is before.

    Above the last layer that owns keys, which is nearly the half of a row, those of the last token are all
    that is ever asked for.
    """

    are_here = False

    def __init__(
        self, table: PerLayerTable, ids: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        # A text repeats itself: of what it is made of there is less to read.
        unique, places = torch.unique(torch.tensor(ids), return_inverse=True)
        self._table, self._dtype, self._device = table, dtype, device
        self._last_id = ids[-1]
        self._ids: list[int] = unique.tolist()
        self._places = sent(places, device)
        table.announce(self._ids)

    def of(self, columns: slice) -> Tensor:
        """See `Rows`. Raises EngineError where the file cannot be read any more."""
        return self._here(self._table.columns(self._ids, columns)).index_select(0, self._places)

    def last(self) -> HeldRows:
        """See `Rows`."""
        return HeldRows(self._here(self._table.rows([self._last_id])))

    def _here(self, rows: Tensor) -> Tensor:
        return sent(rows, self._device).to(self._dtype)
