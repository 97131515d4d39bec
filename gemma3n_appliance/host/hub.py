"""The Hugging Face hub: what a repository holds, and the bytes of one file.

``snapshot_download`` is not used: since huggingface_hub 2.x it drops what it has of a file when it is
interrupted, and 16 GB over a slow line must survive that. Nor is Xet, the hub's chunked protocol: it cannot
continue a file either, and keeps a cache of its own under the home directory. The hub serves every file over
plain HTTP with ranges too.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but exported lazily
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from .. import __version__
from ..errors import DownloadError
from .manifest import FileRecord, Manifest
from .progress import Progress

# What the loader reads. Weights in other formats, pictures and folders (onnx/, original/) stay on the hub.
NEEDED = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")
CHUNK_BYTES = 1 << 20
MAX_FRUITLESS_TRIES = 3
RETRY_PAUSE_S = 1.0
TOKENS_PAGE = "https://huggingface.co/settings/tokens"

# Telemetry asks the hub for a list of coding agents and keeps it in ~/.cache, which a service may not write.
constants.HF_HUB_DISABLE_TELEMETRY = True


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at a revision (branch, tag or commit), and the token that opens it."""

    name: str
    revision: str
    token: str | None = field(default=None, repr=False)

    def manifest(self) -> Manifest:
        """Asks the hub which commit the revision is and which of its files are needed.

        Raises:
            DownloadError: the hub cannot be reached, or does not give the repository.
        """
        api = HfApi(token=self.token or False, library_name="gemma3n-appliance", library_version=__version__)
        with self._errors_explained():
            info = api.model_info(
                self.name,
                revision=self.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
        files = {s.rfilename: _record(s) for s in info.siblings or [] if _is_needed(s.rfilename)}
        if info.sha is None or not any(name.endswith(".safetensors") for name in files):
            raise DownloadError(
                f"{self.name} has no *.safetensors files and cannot be loaded: "
                "set MODEL_NAME to a checkpoint for transformers, such as google/gemma-3n-E4B-it"
            )
        return Manifest(repo=self.name, revision=self.revision, commit=info.sha, files=files)

    def fetch(self, name: str, size: int, partial: Path, progress: Progress) -> None:
        """Appends to ``partial`` what it lacks of the ``size`` bytes of the file.

        A lost connection is taken up again where it broke, as long as each try brings something.

        Raises:
            DownloadError: the hub cannot be reached, or does not give the file. What came is kept.
            OSError: the disk is full or cannot be written.
        """
        fruitless_tries = 0
        with self._errors_explained():
            while (have := size_of(partial)) < size:
                try:
                    self._append(name, partial, have, progress)
                    return
                except httpx2.TransportError as error:  # noqa: PERF203 - a try per connection is the point
                    fruitless_tries = 0 if size_of(partial) > have else fruitless_tries + 1
                    if fruitless_tries == MAX_FRUITLESS_TRIES:
                        raise
                    progress.say(f"{name}: lost the connection ({error}), trying again")
                    time.sleep(fruitless_tries * RETRY_PAUSE_S)

    def _append(self, name: str, partial: Path, have: int, progress: Progress) -> None:
        # A range of a compressed body would count other bytes than ours.
        headers = build_hf_headers(token=self.token or False, headers={"Accept-Encoding": "identity"})
        if have:
            headers["Range"] = f"bytes={have}-"
        url = hf_hub_url(self.name, name, revision=self.revision)
        request = http_stream_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
        )
        with request as response, partial.open("ab") as file:
            hf_raise_for_status(response)
            if have and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                file.truncate(0)
                progress.advance(-have)
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(len(chunk))

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except HFValidationError as error:
            raise DownloadError(f"MODEL_NAME={self.name} is not a repository's name: {error}") from error
        except OfflineModeIsEnabled as error:
            raise DownloadError(
                f"{self.name} is not complete on disk and HF_HUB_OFFLINE forbids to fetch it: "
                "unset it and run again"
            ) from error
        except HfHubHTTPError as error:
            raise DownloadError(self._refusal(error)) from error
        except httpx2.HTTPError as error:
            raise DownloadError(
                f"cannot reach {constants.ENDPOINT} ({error}): check the network and run again; "
                "what was fetched so far is kept"
            ) from error

    def _refusal(self, error: HfHubHTTPError) -> str:
        page = f"https://huggingface.co/{self.name}"
        status = error.response.status_code
        if isinstance(error, GatedRepoError) and self.token is None:
            return (
                f"{self.name} is gated: accept its licence on {page}, "
                f"then set HF_TOKEN to a token of that account ({TOKENS_PAGE})"
            )
        if isinstance(error, GatedRepoError):
            return (
                f"{self.name} is gated and HF_TOKEN's account has no access: accept its licence on {page}, "
                f"and let the token read gated repositories ({TOKENS_PAGE}). "
                f"The hub says: {error.server_message}"
            )
        if isinstance(error, RevisionNotFoundError):
            return (
                f"{self.name} has no revision {self.revision}: "
                f"set MODEL_REVISION to a branch, tag or commit listed on {page}/commits/main"
            )
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"{self.name} does not exist on the hub, or is private: check MODEL_NAME, "
                f"and for a private model set HF_TOKEN to a token that may read it ({TOKENS_PAGE})"
            )
        if status == httpx2.codes.UNAUTHORIZED:
            return f"the hub does not accept HF_TOKEN (401): replace it with a valid token from {TOKENS_PAGE}"
        return (
            f"the hub answered {status} ({error.server_message or error}): run again later; "
            "what was fetched so far is kept"
        )


def size_of(path: Path) -> int:
    """The file's size in bytes, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _is_needed(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in NEEDED)


def _record(sibling: RepoSibling) -> FileRecord:
    if sibling.lfs:
        return FileRecord(size=sibling.lfs.size, sha256=sibling.lfs.sha256)
    return FileRecord(size=sibling.size or 0, git_sha1=sibling.blob_id)
