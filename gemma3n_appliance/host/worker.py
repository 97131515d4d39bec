"""The gunicorn worker: uvicorn over h11, which answers even what is not HTTP as the API promises."""

import asyncio
import contextlib
import socket
import sys
import uuid
from typing import Any, ClassVar, Protocol

import h11
import structlog
from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn_worker import UvicornWorker

from ..protocol.error import ErrorDetail, ErrorReply

log = structlog.get_logger(__name__)

# A request's head has this long to come; then its connection is of use to nobody, and there are only so many.
HEAD_S = 30.0
# What runs when the server is told to stop has this long to finish.
DRAIN_S = 60.0
# Then it is told so, as the API promises. uvicorn and gunicorn, which would only cut it off, wait longer.
GRACEFUL_SHUTDOWN_S = 70


class ApplianceProtocol(H11Protocol):
    """Answers malformed HTTP with an error object instead of plain text, and waits for none for ever."""

    _head_timer: asyncio.TimerHandle | None = None
    _has_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Goes on with a request, or begins to wait for the rest of its head."""
        self._has_begun = True
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Ends the connection, with a reply if none has begun."""
        advice = "Send HTTP/1.1, and no more than 64 kB of headers."
        self._refuse(b"400 Bad Request", f"{msg} {advice}")

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._give_up_on_head)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_on_head(self) -> None:
        if self._has_begun:
            self._refuse(
                b"408 Request Timeout", f"The request's head did not come within {HEAD_S:.0f} seconds."
            )
        else:
            self.transport.close()

    def _refuse(self, status: bytes, message: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = f"req-{uuid.uuid4().hex}"
            detail = ErrorDetail(message=message, type="invalid_request_error", param=None, code="bad_http")
            body = ErrorReply(error=detail).model_dump_json().encode()
            self.transport.write(
                b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nx-request-id: %s\r\n\r\n%s"
                % (status, len(body), request_id.encode(), body)
            )
            client = (self.client or ("unknown",))[0]
            log.info("request", request_id=request_id, status=int(status[:3]), client=client, code="bad_http")
        self.transport.close()


class Drainable(Protocol):
    """An ASGI app that can be told that its server is about to stop."""

    async def drain(self, timeout_s: float) -> None:
        """Ends what it is doing, within about ``timeout_s``."""


class ApplianceServer(Server):
    """Drains the app before uvicorn closes its doors: who comes meanwhile is told to go elsewhere."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs once the server has been told to stop."""
        app: Drainable = self.config.app  # type: ignore[assignment]
        drained = asyncio.create_task(app.drain(DRAIN_S))
        try:
            await asyncio.wait({drained})
            await super().shutdown(sockets)
        finally:
            drained.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drained


class ApplianceWorker(UvicornWorker):  # type: ignore[misc]
    """One process, one event loop; the engine runs in a thread beside it."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "asyncio",
        "http": ApplianceProtocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN_S,
    }

    async def _serve(self) -> None:
        # As in uvicorn_worker, which has no other way to bring a server of one's own.
        self.config.app = self.wsgi
        server = ApplianceServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
