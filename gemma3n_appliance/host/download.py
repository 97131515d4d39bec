"""Brings the model's files onto the disk, and tells whether they are there and intact.

A file gets its name only once its checksum was seen to be right; until then it is ``<name>.partial``. The
manifest is written before the first byte is fetched. So an interrupted download goes on with the same commit,
and a complete one is recognised by names and sizes alone, without the network.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ..errors import DownloadError
from ..settings import Settings
from .manifest import BLOCK_BYTES, FileRecord, Manifest, size_of
from .progress import MB, Progress, ProgressLines

if TYPE_CHECKING:
    from .hub import Repository

log = structlog.get_logger(__name__)

DISK_MARGIN_BYTES = 500 * MB
PARTIAL = ".partial"


def is_on_disk(settings: Settings) -> bool:
    """Whether the model can be loaded without a download; looks at names and sizes only.

    No, where its directory cannot be read: the log says so, and ``ensure_model`` raises it.
    """
    try:
        with _disk_errors_explained(settings):
            return _is_complete(settings)
    except DownloadError as error:
        log.warning("model_unreadable", reason=error.message)
        return False


@dataclass(frozen=True)
class Sizes:
    """A model's bytes, those of them that are still to be fetched, and the files that these are of."""

    num_bytes: int
    num_missing: int
    lacking: list[str]


def known_sizes(settings: Settings) -> Sizes | None:
    """Looks at the manifest; None before a download has begun.

    Raises:
        DownloadError: the model's directory cannot be read.
    """
    with _disk_errors_explained(settings):
        manifest = _manifest_on_disk(settings)
        if manifest is None:
            return None
        lacking = manifest.lacking(settings.model_dir)
        return Sizes(manifest.num_bytes, _num_missing(settings.model_dir, manifest, lacking), lacking)


def ensure_model(settings: Settings, progress: Progress | None = None) -> Path:
    """Downloads what is missing of the model and returns its directory; does nothing when all is there.

    Several processes may call this at once: one downloads, the others wait for it.

    Raises:
        DownloadError: the files cannot be had; the message says what to do about it.
    """
    directory = settings.model_dir
    progress = progress or ProgressLines(log.info)
    with _disk_errors_explained(settings):
        if _is_complete(settings):
            return directory
        if settings.is_local:
            raise DownloadError(
                f"{directory} has no config.json: set MODEL_NAME to a model's directory or hub name"
            )
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory, progress):
            _download(settings, progress)
    return directory


def mend_model(settings: Settings, progress: Progress) -> Path:
    """Verifies every checksum, removes what is corrupt, and downloads what is missing.

    Reading everything leaves it in the page cache, as far as memory goes.

    Raises:
        DownloadError: files cannot be had, or one in a directory of the owner's is corrupt.
    """
    directory = settings.model_dir
    with _disk_errors_explained(settings):
        if settings.is_local:
            _verify_or_read(directory, progress)
        elif manifest := _manifest_on_disk(settings):
            with _locked(directory, progress):
                _remove_corrupt(directory, manifest, progress)
    return ensure_model(settings, progress)


def check_model(settings: Settings, progress: Progress) -> Iterator[str]:
    """Compares every file with the manifest, without the network, and yields what is wrong, file by file.

    Raises:
        DownloadError: there is no manifest to compare with, or the disk cannot be read.
    """
    with _disk_errors_explained(settings):
        yield from _faults(settings, progress)


def _faults(settings: Settings, progress: Progress) -> Iterator[str]:
    directory = settings.model_dir
    manifest = Manifest.read(directory)
    if manifest is None:
        hint = "only downloaded models have one" if settings.is_local else "run `gemma3n-appliance download`"
        raise DownloadError(
            f"{directory} has no readable manifest, so there is nothing to compare with: {hint}"
        )
    if not settings.is_local and not manifest.answers(settings.repo_id, settings.model_revision):
        yield (
            f"{directory} holds {manifest.repo} at {manifest.revision}, not {settings.repo_id} at "
            f"{settings.model_revision}: run `gemma3n-appliance download`"
        )
    for _, fault in _faulty(directory, manifest, progress):
        yield fault


def _faulty(directory: Path, manifest: Manifest, progress: Progress) -> Iterator[tuple[Path, str]]:
    """Compares every file with the manifest; yields those that are not as they should be, and why."""
    with progress.track(f"Checking {manifest.repo}", manifest.num_bytes):
        for name, record in manifest.files.items():
            if fault := record.fault(directory / name, progress.advance):
                yield directory / name, fault


def _verify_or_read(directory: Path, progress: Progress) -> None:
    """Compares the owner's files with the manifest; where there is none, it only reads the weights."""
    if manifest := Manifest.read(directory):
        for _, fault in _faulty(directory, manifest, progress):
            raise DownloadError(f"{fault}: copy it to {directory} once more")
        return
    weights = sorted(directory.glob("*.safetensors"))
    with progress.track(f"Reading {directory}", sum(map(size_of, weights))):
        for path in weights:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    progress.advance(len(block))


def _remove_corrupt(directory: Path, manifest: Manifest, progress: Progress) -> None:
    for path, fault in _faulty(directory, manifest, progress):
        if path.is_file():
            progress.say(f"{fault}; it is removed, and fetched again")
            path.unlink()


def _is_complete(settings: Settings) -> bool:
    if settings.is_local:
        return (settings.model_dir / "config.json").is_file()
    manifest = _manifest_on_disk(settings)
    return manifest is not None and not manifest.lacking(settings.model_dir)


def _manifest_on_disk(settings: Settings) -> Manifest | None:
    manifest = Manifest.read(settings.model_dir)
    return manifest if manifest and manifest.answers(settings.repo_id, settings.model_revision) else None


def _download(settings: Settings, progress: Progress) -> None:
    # A third of what a process would import; most find the model on the disk.
    from .hub import Repository

    directory = settings.model_dir
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    manifest = _manifest_on_disk(settings)
    if manifest is None:
        manifest = Repository(settings.repo_id, settings.model_revision, token).manifest()
        _adopt(directory, manifest)
    lacking = manifest.lacking(directory)
    num_missing = _num_missing(directory, manifest, lacking)
    _require_space(directory, num_missing)
    commit = Repository(manifest.repo, manifest.commit, token)
    with progress.track(f"Downloading {manifest.repo}", manifest.num_bytes, manifest.num_bytes - num_missing):
        for name in lacking:
            _fetch_intact(commit, manifest.files[name], directory / name, progress)


def _num_missing(directory: Path, manifest: Manifest, lacking: list[str]) -> int:
    return sum(manifest.files[name].size - size_of(_partial(directory / name)) for name in lacking)


def _adopt(directory: Path, manifest: Manifest) -> None:
    """Begins a commit: keeps the files there that are right for it, and removes those of another."""
    previous = Manifest.read(directory)
    known = manifest.files.keys() | (previous.files.keys() if previous else set())
    kept = {name for name, record in manifest.files.items() if record.fault(directory / name) is None}
    stale = [path for name in known - kept if (path := directory / name).is_file()]
    stale += directory.glob(f"*{PARTIAL}")
    num_missing = sum(manifest.files[name].size for name in manifest.files.keys() - kept)
    _require_space(directory, num_missing - sum(size_of(path) for path in stale))
    for path in stale:
        path.unlink()
    manifest.write(directory)


def _require_space(directory: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if num_bytes > 0 and num_bytes + DISK_MARGIN_BYTES > free:
        raise DownloadError(
            f"not enough disk space in {directory}: {num_bytes / MB:.0f} MB are still to be fetched and "
            f"{DISK_MARGIN_BYTES / MB:.0f} MB must stay free, but only {free / MB:.0f} MB are free. "
            f"Free {(num_bytes + DISK_MARGIN_BYTES - free) / MB:.0f} MB, or set MODELS_DIR to a larger disk"
        )


def _fetch_intact(commit: "Repository", record: FileRecord, path: Path, progress: Progress) -> None:
    """Fetches the file until its checksum is right, twice at most."""
    partial = _partial(path)
    for is_last_try in (False, True):
        commit.fetch(path.name, record.size, partial, progress)
        if record.fault(partial) is None:
            _sync(partial)
            partial.replace(path)
            return
        progress.advance(-size_of(partial))
        partial.unlink()
        progress.say(
            f"{path.name} arrived corrupt and was removed" + ("" if is_last_try else "; fetching it again")
        )
    raise DownloadError(
        f"{path.name} of {commit.name} arrived corrupt twice: check the disk and the network "
        "(a proxy may alter files), and run again"
    )


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _sync(path: Path) -> None:
    """Makes sure that a power cut cannot leave a file that has its name and not its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _locked(directory: Path, progress: Progress) -> Iterator[None]:
    """Holds the directory for this process alone; a killed process lets go of it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another process downloads into {directory}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors_explained(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        variable = "MODEL_NAME" if settings.is_local else "MODELS_DIR"
        if error.errno == errno.ENOSPC:
            advice = "free some space and run again; what was fetched so far is kept"
        elif error.errno == errno.EIO:
            advice = f"the disk may be failing, see `dmesg`; set {variable} to a directory on another one"
        else:
            advice = f"let this user read and write it, or set {variable} to a directory where it may"
        raise DownloadError(
            f"cannot use {settings.model_dir} ({error.strerror or error}): {advice}"
        ) from error
