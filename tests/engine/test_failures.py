"""What breaks, and whom it hurts."""

import asyncio
import gc
import weakref

import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.engine.engine import EngineState
from gemma3n_appliance.errors import EngineError, InsufficientMemoryError
from tests.fakes.runner import FakeRunner, request

from .conftest import Client, started, until

DEVICE_LOST = RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize("name", ["begin", "prefill"])
def test_a_request_that_fails_hurts_nobody_else(name):
    async def scene():
        runner = FakeRunner(num_slots=3)
        runner.raise_in(name, DEVICE_LOST, prompt=b"bad")
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"bad", b"b")]
            runner.open_gates()
            error = await clients[1].error()
            assert isinstance(error, EngineError)
            assert "CUDA" not in error.message
            assert [await clients[0].text(), await clients[2].text()] == ["Hello."] * 2
            assert await Client(engine, b"next").text() == "Hello."
        return runner

    assert not asyncio.run(scene()).busy_slots


@pytest.mark.parametrize("error", [DEVICE_LOST, InsufficientMemoryError("Send less.")])
def test_of_a_batch_that_fails_only_the_one_whose_fault_it_is_fails(error):
    async def scene():
        runner = FakeRunner(num_slots=3)
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b", b"c", b"waiting")]
            runner.raise_in("decode", error, prompt=b"b", times=3)
            runner.open_gates()
            assert isinstance(await clients[1].error(), EngineError | InsufficientMemoryError)
            assert [await clients[i].text() for i in (0, 2, 3)] == ["Hello."] * 3
            assert engine.state is EngineState.READY
        return runner

    assert not asyncio.run(scene()).busy_slots


def test_a_batch_that_is_only_too_large_goes_on_in_halves():
    async def scene():
        runner = FakeRunner(num_slots=2)
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b")]
            runner.raise_in("decode", InsufficientMemoryError("Send less."), prompt=b"b")
            runner.open_gates()
            assert [await client.text() for client in clients] == ["Hello."] * 2
        return [call for call in runner.calls if call[0] == "decode" and len(call) == 3]

    assert len(asyncio.run(scene())) == 1, "what was too large is not tried at every step"


def test_a_step_made_of_parts_serves_everybody_once_though_someone_ends_in_it():
    async def scene():
        runner = FakeRunner(num_slots=6, answers={b"a": b"x" * 12}, answer=b"y" * 30)
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b", b"c", b"d", b"e", b"f")]
            runner.raise_in("decode", InsufficientMemoryError("Send less."), prompt=b"f", times=2)
            runner.open_gates()
            answers = [await client.text() for client in clients]
        return answers, [call[1:] for call in runner.calls if call[0] == "decode"]

    answers, steps = asyncio.run(scene())
    assert answers == ["x" * 12, *["y" * 30] * 5]
    in_parts = steps[steps.index((5,)) + 1 :]
    while 2 not in in_parts[-1]:  # whoever came earlier ends earlier
        in_parts.pop()
    lead = [sum((2 in step) - (5 in step) for step in in_parts[:n]) for n in range(1, len(in_parts) + 1)]
    assert set(lead) == {0, 1}, "within a step the third comes before the last, and each once"


class Picture:
    """A part of a request that can be seen to be freed."""


def test_a_dead_engine_keeps_nothing_of_those_it_turns_away():
    async def turned_away(engine):
        picture = Picture()
        with pytest.raises(EngineError):
            await anext(engine.generate(request(b"Hi", media=(picture,))))
        return weakref.ref(picture)

    async def scene():
        runner = FakeRunner()
        async with started(runner) as engine:
            runner.raise_in("release", DEVICE_LOST)
            await Client(engine, b"a").text()
            await until(lambda: engine.state is EngineState.DEAD)
            kept = [await turned_away(engine) for _ in range(3)]
            gc.collect()
            assert [reference() for reference in kept] == [None] * 3

    asyncio.run(scene())


def test_a_step_that_forgets_a_slot_fails_its_batch_and_the_engine_goes_on():
    class Forgetful(FakeRunner):
        def decode(self, slots):
            return super().decode(slots)[len(slots) > 1 :]

    async def scene():
        runner = Forgetful(num_slots=2)
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b")]
            runner.open_gates()
            assert [type(await client.error()) for client in clients] == [EngineError] * 2
            assert await Client(engine, b"next").text() == "Hello."

    asyncio.run(scene())


@pytest.mark.parametrize("name", ["begin", "prefill", "decode"])
def test_an_error_that_knows_what_it_is_reaches_the_client_as_it_is(name):
    async def scene():
        runner = FakeRunner()
        async with started(runner) as engine:
            runner.raise_in(name, InsufficientMemoryError("Send a smaller picture."))
            error = await Client(engine, b"Hi").error()
            assert isinstance(error, InsufficientMemoryError)
            assert error.message == "Send a smaller picture."
            assert await Client(engine, b"Hi").text() == "Hello."

    asyncio.run(scene())


def test_an_unexpected_error_is_logged_with_its_traceback_and_the_request():
    async def scene():
        runner = FakeRunner()
        runner.raise_in("prefill", DEVICE_LOST)
        async with started(runner) as engine:
            await Client(engine, b"which-one").error()

    with capture_logs() as logs:
        asyncio.run(scene())
    assert [(entry["request_id"], entry["exc_info"]) for entry in logs] == [("which-one", DEVICE_LOST)]


class Panic(BaseException):
    """As libraries written in Rust throw."""


@pytest.mark.parametrize(("name", "error"), [("release", DEVICE_LOST), ("decode", Panic("not an Exception"))])
def test_an_engine_that_cannot_go_on_says_so_to_everybody_now_and_later(name, error):
    async def scene():
        runner = FakeRunner(num_slots=2, answers={b"a": b"A"}, answer=b"An endless answer.")
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b", b"waiting")]
            runner.raise_in(name, error)
            runner.open_gates()
            assert isinstance(await clients[1].error(), EngineError)
            assert isinstance(await clients[2].error(), EngineError)
            if name == "release":
                assert await clients[0].text() == "A"
            else:
                assert isinstance(await clients[0].error(), EngineError)
            await until(lambda: engine.state is EngineState.DEAD)
            assert isinstance(engine.last_error, EngineError)
            with pytest.raises(EngineError, match="restarted"):
                await anext(engine.generate(request(b"later")))
            with pytest.raises(EngineError, match="restarted"):
                await engine.wait_ready(0)
            await engine.drain(0)
            assert engine.state is EngineState.DEAD
        return runner.calls

    assert asyncio.run(scene())[-1][0] == name, "a dead engine leaves the runner alone"


def test_a_request_that_comes_while_the_engine_dies_is_not_left_waiting():
    async def scene():
        runner = FakeRunner()
        async with started(runner) as engine:
            runner.gates["release"].close()
            runner.raise_in("release", DEVICE_LOST)
            assert await Client(engine, b"a").text() == "Hello."
            await asyncio.to_thread(runner.gates["release"].wait_for_arrival)
            late = await Client.asking(engine, b"late")
            runner.open_gates()
            assert isinstance(await late.error(), EngineError)

    asyncio.run(scene())


def test_who_hangs_up_while_the_device_is_lost_ends_the_engine_and_not_the_process():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            runner.gates["decode"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b")]
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            await clients[0].hang_up()
            runner.raise_in("release", DEVICE_LOST)
            runner.open_gates()
            assert isinstance(await clients[1].error(), EngineError)
            assert engine.state is EngineState.DEAD

    asyncio.run(scene())
