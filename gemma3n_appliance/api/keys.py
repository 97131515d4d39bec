"""API keys: who asks, and how much they may ask for at once."""

import base64
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from falcon.asgi import Request, Response

from ..errors import ApplianceError, InvalidKeyError, OverloadedError
from .disconnect import ASGIApp, Receive, Scope, Send

# Load balancers and systemd ask these, and have no key.
_OPEN = ("/health", "/health/ready")
_KEY = "gemma3n.key"
_REFUSAL = "gemma3n.refusal"


class Key(Protocol):
    """What is known of a key; see `host.key_file.KeyRecord`."""

    @property
    def name(self) -> str:
        """Whose it is."""
        ...

    @property
    def max_concurrent(self) -> int | None:
        """How many requests may run at once, if that differs from the server's setting."""
        ...

    @property
    def max_body_mb(self) -> int | None:
        """The largest body, if that differs from the server's setting."""
        ...


class Keys(Protocol):
    """All keys that there are; see `host.key_file.KeyRing`."""

    def find(self, key: str) -> Key | None:
        """Returns what is known of a key; None of one that there is not."""
        ...


class KeyGate:
    """ASGI layer that looks at a request's key and counts what runs, streams to their ends.

    What there is against a request, `RefuseWithoutKey` raises, where all other errors are raised.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, max_concurrent: int | None, retry_after_s: Callable[[], int]
    ) -> None:
        """``retry_after_s`` tells after how many seconds one of those that run should be done."""
        self._app = app
        self._keys = keys
        self._max_concurrent = max_concurrent
        self._retry_after_s = retry_after_s
        self._num_running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app, which is told what there is against the request."""
        if _is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            key = scope[_KEY] = self._find(scope)
            if not _only_looks(scope):
                self._check_room(key)
        except ApplianceError as error:
            scope[_REFUSAL] = error
            await self._app(scope, receive, send)
            return
        if _only_looks(scope):
            await self._app(scope, receive, send)
            return
        self._num_running[key.name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_running[key.name] -= 1

    def _find(self, scope: Scope) -> Key:
        presented = _presented(scope)
        if presented is None:
            raise InvalidKeyError(
                "This server wants an API key: send it in the header Authorization, as 'Bearer KEY'."
            )
        key = self._keys.find(presented)
        if key is None:
            raise InvalidKeyError("There is no such API key. Ask whoever runs this server for one.")
        return key

    def _check_room(self, key: Key) -> None:
        most = key.max_concurrent or self._max_concurrent
        if most and self._num_running[key.name] >= most:
            raise OverloadedError(
                f"Of the key '{key.name}' {most} requests run, and no more may at once. Try again later.",
                retry_after_s=self._retry_after_s(),
            )


class RefuseWithoutKey:
    """Falcon's middleware that raises what `KeyGate` has against a request."""

    async def process_request(self, req: Request, _resp: Response) -> None:
        """Raises InvalidKeyError or OverloadedError."""
        error = req.scope.get(_REFUSAL)
        if error is not None:
            raise error


def name_of(scope: Scope) -> str | None:
    """Returns the name of a request's key, if it has one."""
    key = scope.get(_KEY)
    return key.name if key else None


def max_body_mb(scope: Any, otherwise: int) -> int:
    """Returns how large a request's body may be."""
    key = scope.get(_KEY)
    return (key.max_body_mb if key else None) or otherwise


def _is_open(scope: Scope) -> bool:
    # A browser asks with OPTIONS whether it may send the key.
    return scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"].rstrip("/") in _OPEN


def _only_looks(scope: Scope) -> bool:
    """Returns whether a request costs next to nothing: a page asks several such at once, beside an answer."""
    return scope["method"] in ("GET", "HEAD")


def _is_of_own_page(method: str, headers: Mapping[bytes, str]) -> bool:
    """Returns whether a browser asks for a person or for our own page, and not for another site's.

    It sends a password that it knows with whatever any page has it ask for. Of its hints, ``Sec-Fetch-Site``
    comes by https and to this machine itself alone, and ``Origin`` with all that could change something.
    """
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        return False
    is_followed_link = (
        method == "GET"
        and headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest") == "document"
    )
    return headers.get(b"sec-fetch-site", "none") in ("none", "same-origin") or is_followed_link


def _presented(scope: Scope) -> str | None:
    """Returns the key in the header, if there is one: as programs send it, or as browsers send passwords."""
    headers = {name: str(value, "latin-1") for name, value in scope["headers"]}
    scheme, _, told = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() == "bearer":  # RFC 6750, 2.1
        return told.strip() or None
    if scheme.lower() == "basic" and _is_of_own_page(scope["method"], headers):  # RFC 7617
        with contextlib.suppress(ValueError):
            return base64.b64decode(told.strip(), validate=True).decode().partition(":")[2] or None
    return None
