import asyncio
import threading

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
