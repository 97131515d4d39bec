"""The gunicorn worker: uvicorn over h11, which answers even what is not HTTP as the API promises."""

import uuid
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn_worker import UvicornWorker

from ..protocol.error import ErrorDetail, ErrorReply

# Less than gunicorn's graceful_timeout, so that what is cut off is cut off in order.
GRACEFUL_SHUTDOWN_S = 30


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
