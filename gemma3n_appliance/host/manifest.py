"""What a complete model directory holds, in the hub's own sizes and checksums, kept beside the files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

MANIFEST_NAME = "gemma3n-manifest.json"
BLOCK_BYTES = 1 << 20


def size_of(path: Path) -> int:
    """The file's size in bytes, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _ignore(_num_bytes: int) -> None:
    """Counts for nobody."""


class FileRecord(BaseModel):
    """One file as the hub describes it.

    Large files carry their ``sha256``. Those kept in git itself carry the id of their git blob, which is
    ``sha1(b"blob <size>\\0" + content)``; the hub publishes no other checksum of them.
    """

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def fault(self, path: Path, on_bytes: Callable[[int], None] = _ignore) -> str | None:
        """What is wrong with the file at ``path``, in words, or None when it is intact.

        ``on_bytes`` is told how many bytes were read, as they are.
        """
        if not path.is_file():
            return f"{path.name} is missing"
        if (size := path.stat().st_size) != self.size:
            return f"{path.name} has {size} bytes instead of {self.size}"
        if self._digest(path, on_bytes) != (self.sha256 or self.git_sha1):
            return f"{path.name} is corrupt: its checksum is not the recorded one"
        return None

    def _digest(self, path: Path, on_bytes: Callable[[int], None]) -> str:
        if self.sha256:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                on_bytes(len(block))
        return digest.hexdigest()


class Manifest(BaseModel):
    """The files of one commit of one repository. ``revision`` is what was asked for, such as ``main``."""

    model_config = ConfigDict(frozen=True)

    repo: str
    revision: str
    commit: str
    files: dict[str, FileRecord]

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The directory's manifest; None where there is none, or none that can be understood."""
        try:
            return cls.model_validate_json((directory / MANIFEST_NAME).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def write(self, directory: Path) -> None:
        """Replaces the directory's manifest in one step."""
        partial = directory / f"{MANIFEST_NAME}.new"
        with partial.open("w") as file:
            file.write(self.model_dump_json(indent=2, exclude_none=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / MANIFEST_NAME)

    def answers(self, repo: str, revision: str) -> bool:
        """Whether these are the files of ``repo`` at ``revision``, a branch, tag or commit."""
        return self.repo == repo and revision in (self.revision, self.commit)

    def lacking(self, directory: Path) -> list[str]:
        """The files that are missing from the directory or have another size, smallest first."""
        return [name for name in self.by_size if not self._has_size(directory / name, self.files[name].size)]

    @property
    def by_size(self) -> list[str]:
        """All file names, smallest first."""
        return sorted(self.files, key=lambda name: (self.files[name].size, name))

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(record.size for record in self.files.values())

    @staticmethod
    def _has_size(path: Path, size: int) -> bool:
        return path.is_file() and path.stat().st_size == size
