"""Reads a JSON body within bounds: of size before it is in memory, and of time."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import falcon
from falcon.asgi import Request

from ..errors import BodyTooLargeError
from ..protocol.wire import WireModelT, parse
from .workers import Workers

# Between two pieces of a body: a silent line is given up sooner than a slow one.
SILENCE_S = 30.0
# For all of it. Whoever sends it holds a place in the queue meanwhile.
TOTAL_S = 300.0


async def read_json(req: Request, model: type[WireModelT], max_mb: int, workers: Workers) -> WireModelT:
    """Returns the body as a ``model``.

    Raises:
        falcon.HTTPUnsupportedMediaType: not declared as JSON, or compressed.
        BodyTooLargeError: more than ``max_mb`` megabytes, declared or sent.
        InvalidRequestError: not what ``model`` takes.
    """
    _check_headers(req)
    return await workers.run(parse, await _in_time(_read(req, max_mb)), model)


def _check_headers(req: Request) -> None:
    kind = (req.content_type or falcon.MEDIA_JSON).partition(";")[0].strip().lower()
    if kind != "application/json":
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Send the body as JSON, with the header Content-Type: application/json (not {kind})."
        )
    if req.get_header("Content-Encoding", default="identity").lower() != "identity":
        raise falcon.HTTPUnsupportedMediaType(
            description="Send the body uncompressed, without Content-Encoding."
        )


async def _read(req: Request, max_mb: int) -> bytes:
    max_bytes = max_mb * 1024 * 1024
    too_large = BodyTooLargeError(f"The body is larger than the {max_mb} MB that this server takes.")
    if (req.content_length or 0) > max_bytes:
        raise too_large
    body = bytearray()
    pieces = aiter(req.stream)
    while (piece := await _next(pieces)) is not None:
        body += piece
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    """Returns None at the end."""
    try:
        return await asyncio.wait_for(anext(pieces, None), SILENCE_S)
    except asyncio.TimeoutError:
        raise _timeout(f"Nothing of the body came for {SILENCE_S:.0f} s.") from None


async def _in_time(reading: Coroutine[Any, Any, bytes]) -> bytes:
    try:
        return await asyncio.wait_for(reading, TOTAL_S)
    except asyncio.TimeoutError:
        raise _timeout(f"The body was not complete after {TOTAL_S:.0f} s.") from None


def _timeout(description: str) -> falcon.HTTPError:
    return falcon.HTTPError(falcon.HTTP_408, description=description, headers={"Connection": "close"})
