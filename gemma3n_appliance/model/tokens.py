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
        """Whether nothing has to be read."""
        ...

    def of(self, columns: slice) -> Tensor:
        """Returns ``[num_tokens, columns]``. Raises EngineError where the file cannot be read any more."""
        ...


@dataclass(frozen=True)
class Tokens:
    """Embeddings ``[num_tokens, hidden_size]``, and the tokens' rows of the table."""

    hidden: Tensor
    rows: Rows


@dataclass(frozen=True)
class HeldRows:
    """Those of single tokens: one of each slot, or a prompt's last."""

    rows: Tensor
    are_here = True

    def of(self, columns: slice) -> Tensor:
        """See `Rows`."""
        return self.rows[:, columns]


class PromptRows:
    """Those of a prompt's tokens, read when they are asked for: a GPU is busy with what is before."""

    are_here = False

    def __init__(
        self,
        table: PerLayerTable,
        ids: Sequence[int],
        columns: slice,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """``columns`` are all that will be asked for."""
        # A text repeats itself: of what it is made of there is less to read.
        unique, places = torch.unique(torch.tensor(ids), return_inverse=True)
        self._table, self._dtype, self._device = table, dtype, device
        self._ids: list[int] = unique.tolist()
        self._places = sent(places, device)
        table.announce(self._ids, columns)

    def of(self, columns: slice) -> Tensor:
        """See `Rows`."""
        rows = sent(self._table.columns(self._ids, columns), self._device).to(self._dtype)
        return rows.index_select(0, self._places)
