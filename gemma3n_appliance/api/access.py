"""Outermost layer: gives every request its id, and the log one line about it when it is over."""

import asyncio
import re
import time
import uuid

import structlog
from structlog.contextvars import bound_contextvars

from ..errors import ShuttingDownError
from .disconnect import ASGIApp, ASGIEvent, Receive, Scope, Send
from .errors import UNEXPECTED, to_json
from .keys import name_of

log = structlog.get_logger(__name__)

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class AccessLog:
    """ASGI layer that sets ``x-request-id`` on every reply and on every log line. Content is never logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app inside the request's log context."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        exchange = _Exchange(send, request_id)
        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, exchange.send)
            except (GeneratorExit, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a server that cuts off, or a panic of a library written in Rust
                if not await _last_resort(exchange, error):
                    raise
            finally:
                _log(scope, exchange)


class _Exchange:
    """What has been sent so far."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode())
        self.began = time.perf_counter()
        self.status: int | None = None
        self.is_complete = False

    async def send(self, event: ASGIEvent) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            event = {**event, "headers": [*event.get("headers", ()), self._header]}
        elif event["type"] == "http.response.body" and not event.get("more_body", False):
            self.is_complete = True
        await self._send(event)


async def _last_resort(exchange: _Exchange, error: BaseException) -> bool:
    """Answers what no handler below could, before the server does in its own words; tells if it did."""
    is_cut_off = isinstance(error, asyncio.CancelledError)
    if not is_cut_off:
        log.error("unexpected_error", exc_info=error)
    if exchange.status is not None:
        return False
    answer = ShuttingDownError() if is_cut_off else UNEXPECTED
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await exchange.send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": to_json(answer)})
    return not is_cut_off


def _request_id(scope: Scope) -> str:
    """Returns the client's own id if it can stand in a log line, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req-{uuid.uuid4().hex}"


def _log(scope: Scope, exchange: _Exchange) -> None:
    # Probes come every few seconds for ever: one that went well is no news.
    write = log.debug if scope["path"].startswith("/health") and exchange.status == 200 else log.info
    write(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=exchange.status,
        complete=exchange.is_complete,
        duration_s=round(time.perf_counter() - exchange.began, 3),
        client=(scope.get("client") or ("unknown",))[0],
        **({"key": name} if (name := name_of(scope)) else {}),
    )
