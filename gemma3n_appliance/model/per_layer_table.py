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

    def _empty(self, num_rows: int) -> Tensor:
        return torch.empty(num_rows, self._row_length, dtype=self._dtype, pin_memory=self._is_pinned)

    def rows(self, ids: Sequence[int], out: Tensor | None = None) -> Tensor:
        """Returns ``[len(ids), row length]`` in the file's dtype; ids beyond the table mean row 0.

        Raises:
            EngineError: the file cannot be read, or was cut short.
        """
        rows = self._empty(len(ids)) if out is None else out
        places = [
            self._offset + (token_id if token_id < self.num_rows else 0) * self._row_bytes for token_id in ids
        ]
        # Asked for all at once: one after the other, 512 rows take a second from a disk.
        for place in places:
            os.posix_fadvise(self._descriptor, place, self._row_bytes, os.POSIX_FADV_WILLNEED)
        for row, place in zip(rows.view(torch.uint8).numpy(), places, strict=True):
            if os.preadv(self._descriptor, [row], place) != self._row_bytes:
                raise EngineError(f"{self._path} was changed while it is served: restart the server.")
        return rows
