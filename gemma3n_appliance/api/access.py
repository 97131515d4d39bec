"""Outermost layer: gives every request its id, and the log and the metrics word of it when it is over."""

import asyncio
import re
import time
import uuid

import structlog
from structlog.contextvars import bound_contextvars

from ..errors import ShuttingDownError
from . import account
from .disconnect import ASGIApp, ASGIEvent, Receive, Scope, Send
from .errors import UNEXPECTED, to_json
from .keys import name_of
from .metrics import Metrics
from .status import RecentErrors, error_of

log = structlog.get_logger(__name__)

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class AccessLog:
    """ASGI layer that sets ``x-request-id`` on every reply and on every log line. Content is never logged."""

    def __init__(self, app: ASGIApp, metrics: Metrics, errors: RecentErrors) -> None:
        self._app = app
        self._metrics = metrics
        self._errors = errors

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
                self._tell(scope, exchange, request_id)

    def _tell(self, scope: Scope, exchange: "_Exchange", request_id: str) -> None:
        duration_s = time.perf_counter() - exchange.began
        spent = account.of(scope)
        self._errors.request_over(scope, request_id, exchange.status)
        self._metrics.request_over(scope["method"], scope["path"], exchange.status)
        if spent:
            self._metrics.text_over(spent, duration_s, _kind_of_error(scope, exchange))
        # Probes come every few seconds for ever: one that went well is no news.
        is_probe = scope["path"].startswith("/health") or scope["path"] in ("/metrics", "/status")
        write = log.debug if is_probe and exchange.status == 200 else log.info
        write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=exchange.status,
            complete=exchange.is_complete,
            duration_s=round(duration_s, 3),
            client=(scope.get("client") or ("unknown",))[0],
            **({"code": error.code} if (error := error_of(scope)) else {}),
            **({"key": name} if (name := name_of(scope)) else {}),
            **(spent.fields() if spent else {}),
        )


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


def _kind_of_error(scope: Scope, exchange: _Exchange) -> str:
    """Returns OpenTelemetry's ``error.type``: empty where all went well, a stream to its end."""
    if error := error_of(scope):
        return error.code or type(error).__name__
    if not exchange.is_complete:
        return "cancelled"
    return "" if exchange.status == 200 else str(exchange.status)


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
