"""Server-sent events, written by ourselves: JSON in one line each, comments while there is nothing to say."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import falcon
import structlog
from falcon.asgi import Response

from ..errors import ApplianceError
from ..protocol.reply import Reply
from ..protocol.responses_reply import ErrorTold
from .disconnect import Scope
from .errors import detail, explained, to_json

log = structlog.get_logger(__name__)

# Proxies give up on a connection that says nothing for a minute, some for less.
PING_INTERVAL_S = 10.0

_PING = b": ping\n\n"
_NAMED = b"event: "
_DONE = b"data: [DONE]\n\n"

Chunks = AsyncGenerator[Reply, None]
Frames = AsyncGenerator[bytes, None]


class EventStream(AsyncIterator[bytes]):
    """Frames that Falcon closes, whatever ends the reply: it closes what has a ``close``."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    async def __anext__(self) -> bytes:
        return await anext(self._frames)

    async def close(self) -> None:
        """Ends what feeds the frames."""
        await self._frames.aclose()


async def stream(
    scope: Scope,
    resp: Response,
    chunks: Chunks,
    ping_interval_s: float = PING_INTERVAL_S,
    *,
    is_typed: bool = False,
) -> None:
    """Answers a request, whose ``scope`` it is, with the chunks as events.

    It begins once there is a first one or the client has waited for long.

    Until then an error is raised, and gets a status of its own. Streams whose events are typed have one for
    their end, and so does an error; the others end with ``[DONE]``.
    """
    frames = _with_pings(chunks, ping_interval_s)
    first = await anext(frames, b"")
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")
    resp.status = falcon.HTTP_200
    resp.stream = EventStream(_guarded(scope, first, frames, is_typed=is_typed))


async def _guarded(scope: Scope, first: bytes, rest: Frames, *, is_typed: bool) -> Frames:
    """Ends with ``[DONE]``, or with an error frame: Falcon's error handlers are out of reach by now."""
    num_events = int(first.startswith(_NAMED))
    async with aclosing(rest):
        try:
            yield first
            async for frame in rest:
                num_events += frame.startswith(_NAMED)
                yield frame
        except Exception as error:
            fault = explained(error, scope)
            yield _typed_error(fault, num_events) if is_typed else _frame(to_json(fault))
        else:
            if not is_typed:
                yield _DONE


def _typed_error(fault: ApplianceError, num_events: int) -> bytes:
    """Returns an event with what its type wants, and with the error object that makes SDKs raise it."""
    event = ErrorTold(
        sequence_number=num_events,
        code=fault.code,
        message=fault.message,
        param=fault.param,
        error=detail(fault),
    )
    return _frame(event.to_json(), event.event_name)


async def _with_pings(chunks: Chunks, interval_s: float) -> Frames:
    async with aclosing(chunks):
        coming: asyncio.Task[Reply | None] | None = None
        try:
            while True:
                coming = coming or asyncio.create_task(_next(chunks))
                await asyncio.wait({coming}, timeout=interval_s)
                if not coming.done():
                    yield _PING
                    continue
                chunk, coming = coming.result(), None
                if chunk is None:
                    return
                yield _frame(chunk.to_json(), chunk.event_name)
        finally:
            if coming is not None:
                await _cancel(coming)


async def _next(chunks: Chunks) -> Reply | None:
    return await anext(chunks, None)


async def _cancel(task: asyncio.Task[Reply | None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _frame(content: bytes, event_name: str | None = None) -> bytes:
    name = _NAMED + event_name.encode() + b"\n" if event_name else b""
    return name + b"data: " + content + b"\n\n"
