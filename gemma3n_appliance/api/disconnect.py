"""Notices that a client has hung up, and stops the work for it: in a stream and in a plain request alike.

Falcon learns of a vanished client when it next sends something, which for a plain request is the very end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog

log = structlog.get_logger(__name__)

Scope = dict[str, Any]
ASGIEvent = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[ASGIEvent], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


class CancelOnDisconnect:
    """ASGI layer that cancels the app's task at ``http.disconnect``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app, for as long as somebody waits for the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = _Connection(receive)
        work = asyncio.create_task(self._app(scope, connection.receive, send))
        hang_up = asyncio.create_task(connection.disconnected.wait())
        try:
            await asyncio.wait({work, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                log.info("client_disconnected")
        finally:
            await _end(work, hang_up, connection.watcher)
        if not work.cancelled():
            work.result()


class _Connection:
    """Passes the body on, and once it is complete keeps listening for the end of the connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_begun = False
        self.disconnected = asyncio.Event()
        self.watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Mapping[str, Any]:
        if not self._has_begun:
            # Falcon looks at the headers only once the body has begun. They may be all it takes to refuse.
            self._has_begun = True
            return {"type": "http.request", "body": b"", "more_body": True}
        if self.watcher is not None:
            await self.disconnected.wait()
            return {"type": "http.disconnect"}
        event = await self._receive()
        if event["type"] == "http.disconnect":
            self.disconnected.set()
        elif not event.get("more_body", False):
            self.watcher = asyncio.create_task(self._watch())
        return event

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()


async def _end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels what still runs and waits until it has let go of everything."""
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
