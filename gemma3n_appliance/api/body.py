"""Reads a JSON body within bounds: of size before it is in memory, and of time."""

import asyncio
from collections.abc import AsyncIterator

import falcon
from falcon.asgi import Request

from ..errors import BodyTooLargeError
from ..protocol.wire import WireModelT, parse

# Between two pieces of a body, not for all of it: a slow line may take its time, a silent one may not.
SILENCE_S = 30.0


async def read_json(req: Request, model: type[WireModelT], max_mb: int) -> WireModelT:
    """Returns the body as a ``model``.

    Raises:
        falcon.HTTPUnsupportedMediaType: not declared as JSON, or compressed.
        BodyTooLargeError: more than ``max_mb`` megabytes, declared or sent.
        InvalidRequestError: not what ``model`` takes.
    """
    _check_headers(req)
    # In a thread: megabytes of pictures take long enough to hold up everyone's streams.
    return await asyncio.to_thread(parse, await _read(req, max_mb), model)


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
        raise falcon.HTTPError(
            falcon.HTTP_408,
            description=f"Nothing of the body came for {SILENCE_S:.0f} s.",
            headers={"Connection": "close"},
        ) from None
