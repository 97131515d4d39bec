import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from gemma3n_appliance.engine.engine import Engine
from gemma3n_appliance.engine.events import Event, Finished, FinishReason, TextDelta
from gemma3n_appliance.engine.pulse import Pulse
from tests.fakes.runner import TIMEOUT_S, FakeRunner, request


@asynccontextmanager
async def started(
    runner: FakeRunner, *, max_queue: int = 8, prefill_chunk: int = 64, step_limit_s: float = 300
) -> AsyncIterator[Engine]:
    engine = Engine(
        runner.loaded, max_queue=max_queue, prefill_chunk=prefill_chunk, pulse=Pulse(step_limit_s)
    )
    try:
        await engine.wait_ready(TIMEOUT_S)
        yield engine
    finally:
        runner.open_gates()
        engine.close()


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - a thread brings it about
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), TIMEOUT_S)


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]


class Client:
    """Somebody who reads an answer."""

    def __init__(self, engine: Engine, prompt: bytes, **fields: object) -> None:
        self.events: AsyncGenerator[Event, None] = engine.generate(request(prompt, **fields))
        self._text = asyncio.create_task(self._read())

    @classmethod
    async def asking(cls, engine: Engine, prompt: bytes, **fields: object) -> "Client":
        """Returns once the request is in line."""
        client = cls(engine, prompt, **fields)
        await asyncio.sleep(0)
        return client

    async def hang_up(self) -> None:
        self._text.cancel()
        await asyncio.wait({self._text})

    async def text(self) -> str:
        return await asyncio.wait_for(self._text, TIMEOUT_S)

    async def error(self) -> BaseException | None:
        await asyncio.wait({self._text}, timeout=TIMEOUT_S)
        return self._text.exception()

    async def _read(self) -> str:
        text = ""
        async for event in self.events:
            if isinstance(event, TextDelta):
                text += event.text
        assert isinstance(event, Finished)
        assert event.reason is FinishReason.STOP
        return text
