"""Every error as OpenAI's error object, whichever layer it comes from."""

from typing import Any

import falcon
import structlog
from falcon.asgi import App, Request, Response

from ..errors import ApplianceError, InsufficientMemoryError, InvalidKeyError, ShuttingDownError
from ..protocol.error import ErrorDetail, ErrorReply
from .body import discard_small_body
from .disconnect import Scope
from .page import PATHS
from .status import remember

log = structlog.get_logger(__name__)

_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    415: "unsupported_media_type",
}

UNEXPECTED = ApplianceError(
    "The server failed to answer. Its log says why, under the x-request-id of this reply."
)


def detail(error: ApplianceError) -> ErrorDetail:
    """Returns the error object."""
    return ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)


def to_json(error: ApplianceError) -> bytes:
    """Returns a body with the error object as it goes over the wire."""
    return _to_json(detail(error))


def install(app: App[Request, Response]) -> None:
    """Has the app answer every exception with an error object."""
    # Later handlers go first where several match; Falcon picks by the most specific class anyway.
    app.add_error_handler(Exception, _on_error)
    app.add_error_handler(falcon.HTTPError, _on_http_error)


def explained(error: Exception, scope: Scope) -> ApplianceError:
    """Logs an error of a request, and returns what to tell the client of it."""
    told = _explained(error)
    remember(scope, told)
    return told


def _explained(error: Exception) -> ApplianceError:
    if isinstance(error, MemoryError):
        log.error("out_of_memory", exc_info=error)
        return InsufficientMemoryError("The server has no memory left for this request. Send less.")
    if not isinstance(error, ApplianceError):
        log.error("unexpected_error", exc_info=error)
        return UNEXPECTED
    write = log.info if error.status < 500 else log.warning
    write("request_failed", status=error.status, code=error.code, param=error.param, reason=error.message)
    return error


async def _on_error(req: Request, resp: Response, error: Exception, _params: Any) -> None:
    await discard_small_body(req)
    _answer(resp, explained(error, req.scope), asks_for_password=req.path in PATHS)


async def _on_http_error(req: Request, resp: Response, error: Exception, _params: Any) -> None:
    assert isinstance(error, falcon.HTTPError)
    await discard_small_body(req)
    resp.status = error.status
    resp.content_type = falcon.MEDIA_JSON
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    code = _HTTP_CODES.get(error.status_code)
    resp.data = _to_json(ErrorDetail(message=_explain(req, error), type=kind, param=None, code=code))


def _explain(req: Request, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        return f"{req.method} is not allowed here; use {dict(error.headers or {}).get('Allow')}."
    if isinstance(error, falcon.HTTPNotFound):
        return f"There is nothing at {req.method} {req.path}. The API begins at /v1."
    return error.description or error.title


def _answer(resp: Response, error: ApplianceError, *, asks_for_password: bool) -> None:
    resp.status = error.status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = to_json(error)
    if error.retry_after_s is not None:
        resp.set_header("Retry-After", str(error.retry_after_s))
    if isinstance(error, ShuttingDownError):
        resp.set_header("Connection", "close")
    if isinstance(error, InvalidKeyError):
        # A browser asks a person for a user name and a password: any, and the key.
        challenge = 'Basic realm="Gemma 3n", charset="UTF-8"' if asks_for_password else "Bearer"
        resp.set_header("WWW-Authenticate", challenge)


def _to_json(error: ErrorDetail) -> bytes:
    return ErrorReply(error=error).model_dump_json().encode()
