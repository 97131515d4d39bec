"""The per-layer embeddings: a table of gigabytes of which a step needs a row per token.

It stays in the checkpoint's file and is read through the page cache, which the kernel takes back when memory
is short. On a Jetson, where CPU and GPU share their memory, having it "on the CPU" would save nothing. It is
not mapped: a file that is overwritten while it is served would then end the process instead of a request.
"""

import os
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import EngineError
from .checkpoint_files import Place


class PerLayerTable:
    """Rows of a table in a file, ``[num_rows, num_layers * width]``."""

    def __init__(self, place: Place, *, is_pinned: bool = False) -> None:
        """Where ``is_pinned``, a GPU can fetch what it returns while the host goes on."""
        self._is_pinned = is_pinned
        self.num_rows, self._row_length = place.shape
        self._dtype = place.dtype
        self._row_bytes = self._row_length * place.dtype.itemsize
        self.num_bytes = self.num_rows * self._row_bytes
        self._offset = place.offset
        # Kept open: what is put in the place of the file is for the next start.
        self._path = place.file
        self._descriptor = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        # Rows are where tokens are: what lies beside one is not wanted next.
        os.posix_fadvise(self._descriptor, place.offset, self.num_bytes, os.POSIX_FADV_RANDOM)

    def announce(self, ids: Sequence[int], columns: slice) -> None:
        """Has a part of rows brought from the disk, all at once: one by one, 512 of them take a second."""
        first, num_bytes = self._extent(columns)
        if not num_bytes:  # which would mean the whole file
            return
        for token_id in ids:
            place = self._place(token_id) + first
            os.posix_fadvise(self._descriptor, place, num_bytes, os.POSIX_FADV_WILLNEED)

    def rows(self, ids: Sequence[int], out: Tensor | None = None) -> Tensor:
        """Returns ``[len(ids), row length]`` in the file's dtype; ids beyond the table mean row 0.

        Raises:
            EngineError: the file cannot be read, or was cut short.
        """
        whole = slice(0, self._row_length)
        self.announce(ids, whole)
        return self._filled(self._empty(len(ids), self._row_length) if out is None else out, ids, whole)

    def columns(self, ids: Sequence[int], columns: slice) -> Tensor:
        """Returns the same for a part of rows, which the caller has announced, and raises the same."""
        return self._filled(self._empty(len(ids), columns.stop - columns.start), ids, columns)

    def _filled(self, rows: Tensor, ids: Sequence[int], columns: slice) -> Tensor:
        first, num_bytes = self._extent(columns)
        for row, token_id in zip(rows.view(torch.uint8).numpy(), ids, strict=True):
            if os.preadv(self._descriptor, [row], self._place(token_id) + first) != num_bytes:
                raise EngineError(f"{self._path} was changed while it is served: restart the server.")
        return rows

    def _extent(self, columns: slice) -> tuple[int, int]:
        """Returns where in a row that is, and how many bytes."""
        size = self._dtype.itemsize
        return columns.start * size, (columns.stop - columns.start) * size

    def _place(self, token_id: int) -> int:
        return self._offset + (token_id if token_id < self.num_rows else 0) * self._row_bytes

    def _empty(self, num_rows: int, length: int) -> Tensor:
        return torch.empty(num_rows, length, dtype=self._dtype, pin_memory=self._is_pinned)
