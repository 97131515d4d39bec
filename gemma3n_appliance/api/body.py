"""Reads a JSON body within bounds: of size before it is in memory, and of time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import falcon
from falcon.asgi import Request

from ..errors import BodyTooLargeError
from ..protocol.wire import WireModelT, parse
from .keys import max_body_mb
from .workers import Workers

# Whoever sends a body holds a place in the queue meanwhile, so that it may not take for ever: this long, and
# longer by what the slowest line needs for the bytes that have come, but never longer than that.
GRACE_S = 10.0
SLOWEST_BYTES_PER_S = 8_192
LONGEST_S = 300.0
# What is on its way already when a request is refused: this much, for so long.
SMALL_BODY_BYTES = 65_536
DISCARD_S = 1.0


async def read_json(
    req: Request,
    model: type[WireModelT],
    max_mb: int,
    workers: Workers,
    check_sent: Callable[[Mapping[str, Any], WireModelT], None] | None = None,
) -> WireModelT:
    """Returns the body as a ``model``; ``check_sent`` is as for `parse`.

    Raises:
        falcon.HTTPUnsupportedMediaType: not declared as JSON, or compressed.
        falcon.HTTPError: it comes too slowly.
        BodyTooLargeError: more than ``max_mb`` megabytes, or than its key may, declared or sent.
        InvalidRequestError: not what ``model`` takes.
    """
    _check_headers(req)
    return await workers.run(parse, await _read(req, max_body_mb(req.scope, max_mb)), model, check_sent)


async def discard_small_body(req: Request) -> None:
    """Reads what is left of a small body, which nobody looks at.

    A connection that is closed with bytes unread is reset, and the reply may be lost with it (RFC 9112, 9.6).
    """
    if 0 < (req.content_length or 0) <= SMALL_BODY_BYTES:
        reading = asyncio.create_task(_exhaust(req))
        try:
            await asyncio.wait({reading}, timeout=DISCARD_S)
        finally:
            reading.cancel()


async def _exhaust(req: Request) -> None:
    await req.stream.exhaust()


def _check_headers(req: Request) -> None:
    # Another site's page may send what has no type without asking first.
    untyped = "no type" if req.get_header("Origin") else falcon.MEDIA_JSON
    kind = (req.content_type or untyped).partition(";")[0].strip().lower()
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
    began_s = time.monotonic()
    while True:
        deadline_s = began_s + min(LONGEST_S, GRACE_S + len(body) / SLOWEST_BYTES_PER_S)
        piece = await _next(pieces, deadline_s - time.monotonic())
        if piece is None:
            return bytes(body)
        body += piece
        if len(body) > max_bytes:
            raise too_large


async def _next(pieces: AsyncIterator[bytes], timeout_s: float) -> bytes | None:
    """Returns None at the end."""
    coming = asyncio.create_task(_piece(pieces))
    try:
        # Before Python 3.12, wait_for may lose a cancellation, and the client's hanging up with it.
        await asyncio.wait({coming}, timeout=max(0.0, timeout_s))
        if coming.done():
            return coming.result()
    finally:
        coming.cancel()
    raise falcon.HTTPError(
        falcon.HTTP_408,
        description="The body comes too slowly. Send it over a faster line, or send less.",
        headers={"Connection": "close"},
    )


async def _piece(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
