"""The Hugging Face hub: what a repository holds, and the bytes of one file.

``snapshot_download`` is not used: since huggingface_hub 2.x it drops what it has of a file when it is
interrupted, and 16 GB over a slow line must survive that. Nor is Xet, the hub's chunked protocol: it cannot
continue a file either, and keeps a cache of its own under the home directory. The hub serves every file over
plain HTTP with ranges too.
"""

import json
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
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but exported lazily
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from .. import __version__
from ..errors import DownloadError
from .manifest import FileRecord, Manifest, size_of
from .progress import Progress

# What the loader reads. Weights in other formats, pictures and folders (onnx/, original/) stay on the hub.
NEEDED = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")
# Four minutes in all: a router takes two to start.
RETRY_PAUSES_S = (1, 2, 4, 8, 16, 32, 60, 60, 60)
# What a network does to a connection. These say nothing of what was sent; a LocalProtocolError quotes the
# header with the token.
LOST_CONNECTION = (
    httpx2.NetworkError,
    httpx2.TimeoutException,
    httpx2.RemoteProtocolError,
    httpx2.ProxyError,
)
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
        with self._errors_explained():
            info = self._info()
        files = {s.rfilename: _record(s) for s in info.siblings or [] if _is_needed(s.rfilename)}
        if info.sha is None or not any(name.endswith(".safetensors") for name in files):
            raise DownloadError(
                f"{self.name} has no *.safetensors files and cannot be loaded: "
                "set MODEL_NAME to a checkpoint for transformers, such as google/gemma-3n-E4B-it"
            )
        return Manifest(repo=self.name, revision=self.revision, commit=info.sha, files=files)

    def fetch(self, name: str, size: int, partial: Path, progress: Progress) -> None:
        """Appends to ``partial`` what it lacks of the ``size`` bytes of the file.

        A lost connection is taken up again where it broke; only minutes without a single byte end that.

        Raises:
            DownloadError: the hub cannot be reached, or does not give the file. What came is kept.
            OSError: the disk is full or cannot be written.
        """
        pauses_s = iter(RETRY_PAUSES_S)
        with self._errors_explained():
            while (have := size_of(partial)) < size:
                try:
                    self._append(name, size, partial, progress)
                    if size_of(partial) <= have:
                        raise httpx2.RemoteProtocolError("the answer was empty")
                except LOST_CONNECTION as error:  # noqa: PERF203 - a try per connection is the point
                    if size_of(partial) > have:
                        pauses_s = iter(RETRY_PAUSES_S)
                    if (pause_s := next(pauses_s, None)) is None:
                        raise
                    progress.say(
                        f"{name}: lost the connection ({_cause(error)}), trying again in {pause_s} s"
                    )
                    time.sleep(pause_s)

    def _info(self) -> ModelInfo:
        api = HfApi(token=self.token or False, library_name="gemma3n-appliance", library_version=__version__)
        try:
            return api.model_info(
                self.name,
                revision=self.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise DownloadError(_not_the_hub(f"about {self.name}")) from error

    def _append(self, name: str, size: int, partial: Path, progress: Progress) -> None:
        have = size_of(partial)
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
            is_rest = response.status_code == httpx2.codes.PARTIAL_CONTENT
            length = response.headers.get("Content-Length")
            # Gigabytes are given up for the file itself, not for what may be a network's login page.
            if length != str(size - have if is_rest else size) and (length or (have and not is_rest)):
                raise DownloadError(_not_the_hub(f"to {name}"))
            if have and not is_rest:
                file.truncate(0)
                progress.advance(-have)
            # Without a size, which would hold back the last chunk of a connection that breaks.
            for chunk in response.iter_bytes():
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
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Without its cause, which a log would print with all that it quotes.
            raise DownloadError(
                f"cannot reach {constants.ENDPOINT} ({_cause(error)}): check the network and run again; "
                "what was fetched so far is kept"
            ) from None

    def _refusal(self, error: HfHubHTTPError) -> str:
        # Of all that an answer may hold only this is the hub's own; a URL of its file store opens the file.
        said = error.response.headers.get("X-Error-Message")
        quoted = f". The hub says: {said}" if said else ""
        page = f"https://huggingface.co/{self.name}"
        status = error.response.status_code
        # First, for huggingface_hub takes most 401s for "not found"; whom the hub knows it answers 404 then.
        if self.token and status == httpx2.codes.UNAUTHORIZED:
            return (
                "the hub does not accept HF_TOKEN (401): "
                f"replace it with a valid token from {TOKENS_PAGE}{quoted}"
            )
        is_gated = isinstance(error, GatedRepoError)
        if self.token and (is_gated or (status == httpx2.codes.FORBIDDEN and said)):
            return (
                f"HF_TOKEN gives no access to {self.name}: accept its licence on {page} "
                f"as the token's owner, and let the token read gated repositories ({TOKENS_PAGE}){quoted}"
            )
        if is_gated:
            return (
                f"{self.name} is gated: accept its licence on {page}, "
                f"then set HF_TOKEN to a token of that account ({TOKENS_PAGE})"
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
        answer = f"{status}, {said}" if said else f"{status}"
        return (
            f"{error.response.url.host} refused ({answer}): run again later; what was fetched so far is kept"
        )


def _cause(error: Exception) -> str:
    """The error in words that are safe to show."""
    return (isinstance(error, LOST_CONNECTION) and str(error)) or type(error).__name__


def _not_the_hub(subject: str) -> str:
    return (
        f"what {constants.ENDPOINT} answered {subject} is not from the hub: "
        "log in to this network if it wants that, check proxies and HF_ENDPOINT, and run again"
    )


def _is_needed(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in NEEDED)


def _record(sibling: RepoSibling) -> FileRecord:
    if sibling.lfs:
        return FileRecord(size=sibling.lfs.size, sha256=sibling.lfs.sha256)
    return FileRecord(size=sibling.size or 0, git_sha1=sibling.blob_id)
