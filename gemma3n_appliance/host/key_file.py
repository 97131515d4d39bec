"""API keys at rest: a file with a line for each, which holds its name, its hash and its limits.

    laptop sha256:9f86d08…  max_concurrent=2 max_body_mb=8

A key has 256 random bits, so that a plain hash tells as little of it as a slow one would, and anybody may
read the file. What is after # is for people.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ..errors import KeyFileError

log = structlog.get_logger(__name__)

# Some clients look at how a key begins.
_BEGIN = "sk-g3n-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
LARGEST_LIMIT = 999_999
_LIMIT = re.compile(r"(max_concurrent|max_body_mb)=([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class KeyRecord:
    """Who a key is for, and what they may: None leaves it to the server's settings."""

    name: str
    hash: str = field(repr=False)
    max_concurrent: int | None = None
    max_body_mb: int | None = None

    @property
    def limits(self) -> dict[str, int]:
        """Its own limits, by their names."""
        limits = {"max_concurrent": self.max_concurrent, "max_body_mb": self.max_body_mb}
        return {name: value for name, value in limits.items() if value is not None}

    @property
    def line(self) -> str:
        """The key as a line of the file."""
        return " ".join([self.name, self.hash, *(f"{name}={value}" for name, value in self.limits.items())])


class KeyRing:
    """The keys of a file as they are now: a change counts from the next request on."""

    def __init__(self, path: Path) -> None:
        """Where there is no file, there are no keys. Raises KeyFileError as `read` does."""
        self._path = path
        self._seen = self._signature()
        self._records = read(path)
        if not self._records:
            log.warning(
                "no_api_keys", file=str(path), reason="nobody can ask: gemma3n-appliance key new NAME"
            )

    def find(self, key: str) -> KeyRecord | None:
        """Returns the record of a key, in a time that tells nothing of the others."""
        self._follow()
        presented = _hash(key)
        found = [record for record in self._records if hmac.compare_digest(record.hash, presented)]
        return found[0] if found else None

    def _follow(self) -> None:
        """Reads the file again if it has changed; where it cannot be used, the keys stay as they were."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._records = read(self._path)
        except KeyFileError as error:
            log.error("keys_not_reloaded", reason=error.message)
        else:
            log.info("keys_reloaded", num_keys=len(self._records))

    def _signature(self) -> tuple[int, int, int] | None:
        """Returns what is another once the file has changed, or who may read it; None without a file."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ctime_ns, status.st_size, status.st_ino)


def read(path: Path) -> tuple[KeyRecord, ...]:
    """Returns the keys in a file, none where there is no file.

    Raises:
        KeyFileError: it cannot be read, or a line of it is none of a key.
    """
    lines = _lines(path)
    records: dict[str, KeyRecord] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        record = _record(words)
        if record is None or record.name in records:
            fault = f"there are two keys {record.name}" if record else "this is no line of a key"
            raise KeyFileError(
                f"{path}, line {number}: {fault}. `gemma3n-appliance key new` writes such lines."
            )
        records[record.name] = record
    return tuple(records.values())


def add(path: Path, name: str, *, max_concurrent: int | None = None, max_body_mb: int | None = None) -> str:
    """Writes a new key's line, and returns the key, which is nowhere else.

    Raises:
        KeyFileError: the name is taken or cannot be one, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is no name of a key: use letters, digits, dots, dashes, underscores.")
    key = _BEGIN + secrets.token_urlsafe(32)
    record = KeyRecord(name, _hash(key), max_concurrent, max_body_mb)
    with _held(path):
        if any(other.name == name for other in read(path)):
            raise KeyFileError(f"There is a key {name} already: revoke it first, or choose another name.")
        _replace(path, [*_lines(path), record.line])
    return key


def revoke(path: Path, name: str) -> None:
    """Takes a key's line out.

    Raises:
        KeyFileError: there is no such key, or the file cannot be written.
    """
    with _held(path):
        if all(record.name != name for record in read(path)):
            raise KeyFileError(f"There is no key {name} in {path}.")
        _replace(path, [line for line in _lines(path) if line.partition("#")[0].split()[:1] != [name]])


def _record(words: list[str]) -> KeyRecord | None:
    if len(words) < 2:
        return None
    name, key_hash, *rest = words
    limits = [match for word in rest if (match := _LIMIT.fullmatch(word))]
    if not (_NAME.fullmatch(name) and _HASH.fullmatch(key_hash) and len(limits) == len(rest)):
        return None
    return KeyRecord(name, key_hash, **{limit[1]: int(limit[2]) for limit in limits})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise KeyFileError(
            f"API_KEYS_FILE={path} cannot be read ({why}): let the server's user read it, or unset it."
        ) from None


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keeps others from changing the file meanwhile, by a lock on its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, lines: list[str]) -> None:
    """Writes the whole file at once: who reads it meanwhile sees the old one. Owner and mode stay."""
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())  # or a power cut might leave an empty file, which lets nobody in
        partial.chmod(0o644)
        if path.exists():
            before = path.stat()
            os.chown(partial, before.st_uid, before.st_gid)
            partial.chmod(before.st_mode & 0o777)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"Cannot write {path} ({error.strerror}): run this as root, or as its owner.")


def _hash(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
