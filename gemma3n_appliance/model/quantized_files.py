"""Weights that an earlier start has quantised, a file for each, for as long as the checkpoint stays the same.

They hold what any device reads; the order that a kernel wants them in is made at every start.
"""

import hashlib
import os
import shutil
from pathlib import Path

import structlog
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint_files import read_all
from .quantize import Bits

# To be raised whenever other names or numbers are kept.
_FORMAT = 1

log = structlog.get_logger(__name__)


class QuantizedFiles:
    """A folder in the cache, for one checkpoint and so many bits: read, or else written and finished."""

    def __init__(self, cache_dir: Path, checkpoint: Path, bits: Bits) -> None:
        """Makes nothing yet."""
        name = f"{checkpoint.resolve().name}-{bits}"
        self._directory = cache_dir / "quantized" / name / _fingerprint(checkpoint)
        self._partial = self._directory.with_suffix(".partial")
        self._are_there = self._directory.is_dir()
        self._are_written = not self._are_there
        self._has_begun = False

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Returns a weight's tensors, if they are there; where one is damaged, the next start makes all."""
        if not self._are_there:
            return None
        try:
            return read_all(self._file(self._directory, name))
        except (OSError, ValueError) as error:
            log.warning("quantised weights cannot be read: the next start makes them anew", reason=str(error))
            self._are_there = False
            if isinstance(error, FileNotFoundError | ValueError):
                shutil.rmtree(self._directory, ignore_errors=True)
            return None

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Writes a weight's tensors; where that fails, a warning says so, and nothing is kept."""
        if not self._are_written:
            return
        try:
            if not self._has_begun:
                self._begin()
            file = self._file(self._partial, name)
            save_file({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, file)
            sync(file)
        except (OSError, SafetensorError) as error:
            self._give_up(error)

    def finish(self) -> None:
        """Lets what was written count."""
        if not (self._are_written and self._has_begun):
            return
        try:
            self._partial.rename(self._directory)
            sync(self._directory.parent)
        except OSError as error:
            self._give_up(error)

    def _begin(self) -> None:
        """Removes what other states of the checkpoint, and starts that were broken off, have left."""
        shutil.rmtree(self._directory.parent, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._has_begun = True

    def _give_up(self, error: Exception) -> None:
        log.warning("quantised weights are not kept: the next start makes them again", reason=str(error))
        self._are_written = False
        shutil.rmtree(self._partial, ignore_errors=True)

    def _file(self, directory: Path, name: str) -> Path:
        return directory / f"{name}.safetensors"


def _fingerprint(checkpoint: Path) -> str:
    """Tells states of a checkpoint apart, without reading gigabytes."""
    files = sorted([*checkpoint.glob("*.safetensors*"), checkpoint / "config.json"])
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((_FORMAT, states)).encode()).hexdigest()[:16]


def sync(path: Path) -> None:
    """A power cut must not leave a file that is there and empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
