"""Threads for what would hold up everyone's streams: parsing megabytes, decoding pictures, tokenising."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

# Such work takes memory as well as time; more at once would only take more of it.
NUM_THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of its own: a thread runs on when its client hangs up, and must not make room for another."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="prompt")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the function in a thread, with this task's log context; waits in line if all are busy."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: context.run(function, *args, **kwargs))
