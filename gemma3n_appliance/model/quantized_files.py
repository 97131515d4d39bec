"""Weights that an earlier start has quantised, a file for each, for as long as the checkpoint stays the same.

They hold what any device reads; the order that a kernel wants them in is made at every start.
"""

import hashlib
import os
import shutil
import tempfile
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
        self._cache_dir = cache_dir
        self._name = f"{checkpoint.resolve().name}-{bits}"
        self._directory = cache_dir / f"{self._name}-{_fingerprint(checkpoint)}"
        self._partial: Path | None = None
        self._are_there = self._directory.is_dir()
        self._are_written = not self._are_there

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Returns a weight's tensors, if they are there; what cannot be read is removed and made again."""
        if not self._are_there:
            return None
        try:
            return read_all(self._file(self._directory, name))
        except (OSError, ValueError) as error:
            log.warning("quantised weights cannot be read: they are made again", reason=str(error))
            self._are_there = False
            shutil.rmtree(self._directory, ignore_errors=True)
            return None

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Writes a weight's tensors; where that fails, a warning says so, and nothing is kept."""
        if not self._are_written:
            return
        try:
            if self._partial is None:
                self._cache_dir.mkdir(parents=True, exist_ok=True)
                self._partial = Path(tempfile.mkdtemp(prefix=f"{self._name}-partial-", dir=self._cache_dir))
            file = self._file(self._partial, name)
            save_file({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, file)
            _sync(file)
        except (OSError, SafetensorError) as error:
            self._give_up(error)

    def finish(self) -> None:
        """Lets what was written count, in the place of what other states of the checkpoint have left."""
        if self._partial is None:
            return
        try:
            for old in self._cache_dir.glob(f"{self._name}-*"):
                if old != self._partial:
                    shutil.rmtree(old)
            self._partial.rename(self._directory)
            _sync(self._cache_dir)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("quantised weights are not kept: the next start makes them again", reason=str(error))
        self._are_written = False
        if self._partial:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def _file(self, directory: Path, name: str) -> Path:
        return directory / f"{name}.safetensors"


def _fingerprint(checkpoint: Path) -> str:
    """Tells states of a checkpoint apart, without reading gigabytes."""
    files = sorted([*checkpoint.glob("*.safetensors*"), checkpoint / "config.json"])
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((_FORMAT, states)).encode()).hexdigest()[:16]


def _sync(path: Path) -> None:
    """A power cut must not leave a file that is there and empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
