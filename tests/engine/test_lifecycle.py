"""Loading, draining and closing."""

import asyncio
import gc
import threading
import weakref

import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.engine import engine as engine_module
from gemma3n_appliance.engine.engine import Engine, EngineState
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.engine.runner import LoadedModel
from gemma3n_appliance.errors import (
    ApplianceError,
    DownloadError,
    InsufficientMemoryError,
    ModelLoadError,
    NotReadyError,
    OverloadedError,
    ShuttingDownError,
)
from tests.fakes.runner import TIMEOUT_S, FakeRunner, request

from .conftest import Client, collect, started, until


class Loader:
    """Loads when it may; each outcome is a runner or an error."""

    def __init__(self, *outcomes: FakeRunner | BaseException) -> None:
        self.outcomes = list(outcomes)
        self.may_load = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> LoadedModel:
        self.threads.append(threading.current_thread())
        assert self.may_load.wait(TIMEOUT_S)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.loaded()


def engine_of(loader: Loader) -> Engine:
    return Engine(loader, max_queue=8, prefill_chunk=64, pulse=Pulse(300))


def test_a_model_is_loaded_once_by_the_first_who_needs_it_and_not_in_their_thread():
    async def scene():
        loader = Loader(FakeRunner())
        engine = engine_of(loader)
        assert (engine.state, engine.model_if_ready, engine.num_slots) == (EngineState.IDLE, None, 0)
        waiting = [asyncio.create_task(engine.wait_ready(TIMEOUT_S)) for _ in range(3)]
        await asyncio.sleep(0)
        assert engine.state is EngineState.LOADING
        loader.may_load.set()
        models = await asyncio.gather(*waiting)
        assert models == [engine.model_if_ready] * 3
        assert (engine.state, engine.num_slots) == (EngineState.READY, 2)
        assert await Client(engine, b"Hi").text() == "Hello."
        engine.close()
        assert len(loader.threads) == 1
        assert loader.threads[0] is not threading.current_thread()

    asyncio.run(scene())


def test_who_has_waited_long_enough_is_told_when_to_come_back_and_loading_goes_on():
    async def scene():
        loader = Loader(FakeRunner())
        engine = engine_of(loader)
        with pytest.raises(NotReadyError) as caught:
            await engine.wait_ready(0)
        assert caught.value.retry_after_s >= 1
        with pytest.raises(NotReadyError):
            await anext(engine.generate(request(b"Hi")))
        loader.may_load.set()
        await engine.wait_ready(TIMEOUT_S)
        engine.close()
        assert len(loader.threads) == 1

    asyncio.run(scene())


class Panic(BaseException):
    """As libraries written in Rust throw."""


def test_no_more_wait_for_a_load_than_may_wait_for_a_slot():
    async def prepare(engine):
        with engine.place_in_line():
            return await engine.wait_ready(TIMEOUT_S)

    async def scene():
        loader = Loader(FakeRunner())
        engine = engine_of(loader)
        waiting = [asyncio.create_task(prepare(engine)) for _ in range(9)]
        await asyncio.sleep(0)
        assert not engine.has_room
        with pytest.raises(OverloadedError, match="9 requests wait") as refused:
            await prepare(engine)
        assert refused.value.retry_after_s > 0
        loader.may_load.set()
        assert await asyncio.gather(*waiting) == [engine.model_if_ready] * 9
        assert engine.has_room
        engine.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("secret/path"), ModelLoadError),
        (Panic(), ModelLoadError),
        (DownloadError("Accept the licence."), DownloadError),
        (InsufficientMemoryError("Too small."), InsufficientMemoryError),
    ],
)
def test_a_failed_load_is_explained_and_a_later_request_tries_again(error, told, monkeypatch):
    async def scene():
        loader = Loader(error, FakeRunner())
        loader.may_load.set()
        engine = engine_of(loader)
        with pytest.raises(ApplianceError) as caught:
            await engine.wait_ready(TIMEOUT_S)
        assert type(caught.value) is told
        assert "secret" not in caught.value.message
        assert caught.value.retry_after_s == 10
        assert (engine.state, engine.last_error.message) == (EngineState.FAILED, caught.value.message)
        with pytest.raises(told):  # too soon: it is told again, and nothing is loaded
            await engine.wait_ready(TIMEOUT_S)
        assert len(loader.outcomes) == 1
        monkeypatch.setattr(engine_module, "RELOAD_PAUSE_S", 0.0)
        assert await engine.wait_ready(TIMEOUT_S)
        assert (engine.state, engine.last_error) == (EngineState.READY, None)
        assert await Client(engine, b"Hi").text() == "Hello."
        engine.close()

    asyncio.run(scene())


def test_a_failed_load_is_logged_with_what_caused_it():
    async def scene():
        error = OSError("no such shard")
        loader = Loader(error)
        loader.may_load.set()
        with capture_logs() as logs, pytest.raises(ModelLoadError):
            await engine_of(loader).wait_ready(TIMEOUT_S)
        assert [entry["exc_info"] for entry in logs] == [error]

    asyncio.run(scene())


class Weights:
    """What a load has in hand when it fails."""


def test_a_failed_load_leaves_nothing_in_memory():
    kept: list[weakref.ref[Weights]] = []

    def load() -> LoadedModel:
        weights = Weights()
        kept.append(weakref.ref(weights))
        try:
            raise MemoryError
        except MemoryError as error:
            raise InsufficientMemoryError("Too small.") from error

    async def scene():
        engine = Engine(load, max_queue=8, prefill_chunk=64, pulse=Pulse(300))
        engine.start_loading()
        await until(lambda: engine.state is EngineState.FAILED)
        gc.collect()
        assert kept[0]() is None

    asyncio.run(scene())


def test_draining_finishes_what_runs_and_waits_and_takes_nothing_new():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            runner.gates["decode"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"running", b"waiting")]
            drained = asyncio.create_task(engine.drain(TIMEOUT_S))
            await until(lambda: engine.state is EngineState.DRAINING)
            with pytest.raises(ShuttingDownError):
                await anext(engine.generate(request(b"new")))
            with pytest.raises(ShuttingDownError):
                await engine.wait_ready(TIMEOUT_S)
            assert not drained.done()
            runner.open_gates()
            await drained
            assert [await client.text() for client in clients] == ["Hello."] * 2

    asyncio.run(scene())


def test_what_a_drain_has_no_time_for_is_told_so():
    async def scene():
        runner = FakeRunner(num_slots=1, max_context=10**9)
        async with started(runner) as engine:
            endless = {"max_tokens": 10**8, "ignore_eos": True}
            clients = [await Client.asking(engine, prompt, **endless) for prompt in (b"running", b"waiting")]
            await until(lambda: ("decode", 0) in runner.calls)
            await engine.drain(0.01)
            assert [type(await client.error()) for client in clients] == [ShuttingDownError] * 2

    asyncio.run(scene())


def test_a_drain_does_not_wait_for_a_step_that_takes_long():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            runner.gates["decode"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"running", b"waiting")]
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            await engine.drain(0)
            assert [type(await client.error()) for client in clients] == [ShuttingDownError] * 2

    asyncio.run(scene())


def test_a_server_that_closes_gives_no_place_in_line():
    engine = engine_of(Loader())
    engine.close()
    with pytest.raises(ShuttingDownError), engine.place_in_line():
        pass


def test_who_comes_again_for_its_prompt_is_not_turned_away():
    engine = Engine(Loader(), max_queue=0, prefill_chunk=64, pulse=Pulse(300))
    with engine.place_in_line():
        with pytest.raises(OverloadedError), engine.place_in_line():
            pass
        with engine.place_in_line(again=True):
            assert engine.num_waiting == 2
    assert engine.num_waiting == 0


def test_closing_fails_what_is_left_and_ends_the_thread():
    async def scene():
        runner = FakeRunner(num_slots=1, max_context=10**9)
        loader = Loader(runner)
        loader.may_load.set()
        engine = engine_of(loader)
        await engine.wait_ready(TIMEOUT_S)
        endless = {"max_tokens": 10**8, "ignore_eos": True}
        clients = [await Client.asking(engine, prompt, **endless) for prompt in (b"running", b"waiting")]
        await until(lambda: ("decode", 0) in runner.calls)
        engine.close()
        assert [type(await client.error()) for client in clients] == [ShuttingDownError] * 2
        assert not loader.threads[0].is_alive()
        assert not runner.busy_slots
        engine.close()

    asyncio.run(scene())


def test_closing_while_loading_ends_the_wait_and_the_thread():
    async def scene():
        loader = Loader(FakeRunner())
        engine = engine_of(loader)
        waiting = asyncio.create_task(engine.wait_ready(TIMEOUT_S))
        await until(lambda: loader.threads)
        engine.close()
        with pytest.raises(ShuttingDownError):
            await waiting
        loader.may_load.set()
        await asyncio.to_thread(loader.threads[0].join, TIMEOUT_S)
        assert not loader.threads[0].is_alive()
        assert engine.state is EngineState.DRAINING

    asyncio.run(scene())


def test_an_engine_that_never_loaded_closes():
    engine = engine_of(Loader())
    engine.close()
    engine.start_loading()
    assert engine.state is EngineState.DRAINING


def test_a_client_whose_event_loop_is_gone_does_not_stop_the_engine():
    runner = FakeRunner()
    loader = Loader(runner)
    loader.may_load.set()
    engine = engine_of(loader)

    async def ask_and_leave():
        await engine.wait_ready(TIMEOUT_S)
        runner.gates["decode"].close()
        Client(engine, b"Hi")
        await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)

    async def ask():
        return await Client(engine, b"Hi").text()

    asyncio.run(ask_and_leave())
    runner.open_gates()
    assert asyncio.run(ask()) == "Hello."
    engine.close()


def test_closing_fails_prompts_that_are_not_even_in_line():
    async def scene():
        runner = FakeRunner(num_slots=1)
        loader = Loader(runner)
        loader.may_load.set()
        engine = engine_of(loader)
        await engine.wait_ready(TIMEOUT_S)
        runner.gates["release"].close()
        events = engine.generate(request(b"one"), request(b"two"))
        await anext(events)
        # Nobody awaits anything meanwhile: that the first prompt is answered is not known yet.
        runner.gates["release"].wait_for_arrival()
        runner.open_gates()
        engine.close()
        with pytest.raises(ShuttingDownError):
            await asyncio.wait_for(collect(events), TIMEOUT_S)

    asyncio.run(scene())
