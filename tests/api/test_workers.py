import asyncio
import gc
import threading
import weakref

from structlog.contextvars import bound_contextvars, get_contextvars

from gemma3n_appliance.api import workers


def test_threads_whose_clients_hung_up_make_room_for_no_more():
    may_end = threading.Event()
    running: list[str] = []

    def work() -> None:
        running.append(threading.current_thread().name)
        may_end.wait(10)

    async def scene() -> None:
        pool = workers.Workers()
        for _ in range(5):
            task = asyncio.create_task(pool.run(work))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait({task})
        assert len(running) == workers.NUM_THREADS
        may_end.set()
        assert await pool.run(lambda: "next") == "next"

    asyncio.run(scene())


def test_a_thread_logs_as_its_request_does():
    async def scene() -> None:
        with bound_contextvars(request_id="r1"):
            assert (await workers.Workers().run(get_contextvars))["request_id"] == "r1"

    asyncio.run(scene())


class Body:
    """What a request holds on to."""


def test_who_hangs_up_in_line_leaves_nothing_behind():
    may_end = threading.Event()

    async def scene() -> None:
        pool = workers.Workers()
        busy = [asyncio.create_task(pool.run(may_end.wait, 10)) for _ in range(workers.NUM_THREADS)]
        await asyncio.sleep(0.02)
        body = Body()
        kept = weakref.ref(body)
        waiting = asyncio.create_task(pool.run(id, body))
        del body
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.wait({waiting})
        del waiting
        gc.collect()
        assert kept() is None
        may_end.set()
        await asyncio.wait(busy)

    asyncio.run(scene())
