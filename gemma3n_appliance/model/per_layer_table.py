"""The per-layer embeddings: a table of gigabytes of which a step needs a row per token.

It stays in the checkpoint's file, mapped into memory and read through the page cache, which the kernel takes
back when memory is short. On a Jetson, where CPU and GPU share their memory, having it "on the CPU" would
save nothing.
"""

import mmap
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .checkpoint_files import Place

# Fewer rows are read as they are touched.
_WORTH_ANNOUNCING = 8


class PerLayerTable:
    """Rows of a table in a file, ``[num_rows, num_layers * width]``."""

    def __init__(self, place: Place) -> None:
        page = mmap.ALLOCATIONGRANULARITY
        begin = place.offset // page * page
        num_rows, row_length = place.shape
        self.num_bytes = num_rows * row_length * place.dtype.itemsize
        self._row_bytes = row_length * place.dtype.itemsize
        self._first_byte = place.offset - begin
        with place.file.open("rb") as file:
            self._map = mmap.mmap(
                file.fileno(), self._first_byte + self.num_bytes, access=mmap.ACCESS_READ, offset=begin
            )
        # Rows are where tokens are: what lies beside one is not wanted next.
        self._map.madvise(mmap.MADV_RANDOM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to
            flat = torch.frombuffer(
                self._map, dtype=place.dtype, count=num_rows * row_length, offset=self._first_byte
            )
        self._rows = flat.view(num_rows, row_length)

    @property
    def num_rows(self) -> int:
        """How many ids have a row of their own."""
        return len(self._rows)

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Returns ``[len(ids), row length]`` in the file's dtype; ids beyond the table mean row 0."""
        known = [token_id if token_id < self.num_rows else 0 for token_id in ids]
        if len(known) >= _WORTH_ANNOUNCING:
            self._announce(set(known))
        return self._rows[torch.tensor(known)]

    def _announce(self, ids: set[int]) -> None:
        """Has the kernel read the rows all at once: one after the other, 512 take a second from a disk."""
        page = mmap.PAGESIZE
        for token_id in ids:
            begin = self._first_byte + token_id * self._row_bytes
            start = begin // page * page
            self._map.madvise(mmap.MADV_WILLNEED, start, begin + self._row_bytes - start)
