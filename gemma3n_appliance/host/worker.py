"""The gunicorn worker: uvicorn over h11, which answers even what is not HTTP as the API promises."""

import asyncio
import contextlib
import socket
import sys
import uuid
from typing import Any, ClassVar, Protocol

import h11
from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn_worker import UvicornWorker

from ..protocol.error import ErrorDetail, ErrorReply

# What runs when the server is told to stop has this long to finish.
DRAIN_S = 60.0
# Then it is told so, as the API promises. uvicorn and gunicorn, which would only cut it off, wait longer.
GRACEFUL_SHUTDOWN_S = 70


class ApplianceProtocol(H11Protocol):
    """Answers malformed HTTP with an error object instead of plain text."""

    def send_400_response(self, msg: str) -> None:
        """Ends the connection, with a reply if none has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            detail = ErrorDetail(message=msg, type="invalid_request_error", param=None, code="bad_http")
            body = ErrorReply(error=detail).model_dump_json().encode()
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nx-request-id: req-%s\r\n\r\n%s"
                % (len(body), uuid.uuid4().hex.encode(), body)
            )
        self.transport.close()


class Drainable(Protocol):
    """An ASGI app that can be told that its server is about to stop."""

    async def drain(self, timeout_s: float) -> None:
        """Ends what it is doing, within about ``timeout_s``."""


class ApplianceServer(Server):
    """Drains the app while uvicorn waits for its connections; uvicorn alone would tell it only afterwards."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs once the server has been told to stop."""
        app: Drainable = self.config.app  # type: ignore[assignment]
        drained = asyncio.create_task(app.drain(DRAIN_S))
        try:
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
