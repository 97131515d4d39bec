"""Threads for what would hold up everyone's streams: parsing megabytes, decoding pictures, tokenising."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

# Such work takes memory as well as time; more at once would only take more of it.
NUM_THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of its own: a thread runs on when its client hangs up, and must not make room for another."""

    def __init__(self, num_threads: int = NUM_THREADS) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prompt")
        self._free = asyncio.Semaphore(num_threads)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the function in a thread, with this task's log context; waits in line if all are busy."""
        # The line is here and not the pool's, which would keep the bodies of those who have hung up in it.
        await self._free.acquire()
        context = contextvars.copy_context()
        work = self._pool.submit(lambda: context.run(function, *args, **kwargs))
        work.add_done_callback(self._letting_go(asyncio.get_running_loop()))
        return await asyncio.wrap_future(work)

    def _letting_go(self, loop: asyncio.AbstractEventLoop) -> Callable[[Future[T]], None]:
        def let_go(_work: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # nobody is in line once the event loop is closed
                loop.call_soon_threadsafe(self._free.release)

        return let_go
