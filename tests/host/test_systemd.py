import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gemma3n_appliance.engine.engine import Engine, EngineState
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.errors import ModelLoadError
from gemma3n_appliance.host import systemd
from gemma3n_appliance.host.systemd import Reporter
from tests.engine.conftest import until
from tests.fakes.notify_socket import NotifySocket
from tests.fakes.runner import TIMEOUT_S, FakeRunner, request
from tests.waiting import wait_until


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    monkeypatch.setattr(systemd, "REPORT_EVERY_S", 0.01)
    with NotifySocket(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("GEMMA3N_NOTIFY_SOCKET", "")  # so that it is unset afterwards
        yield manager


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    runner = FakeRunner()
    yield runner
    runner.open_gates()


def engine_of(load, step_limit_s: float = 300) -> Engine:
    return Engine(load, max_queue=8, prefill_chunk=64, pulse=Pulse(step_limit_s))


async def report_until(engine: Engine, manager: NotifySocket, *wanted: str) -> None:
    reporting = asyncio.create_task(Reporter(engine, "gemma").run())
    try:
        await until(lambda: set(wanted) <= set(manager.told))
    finally:
        reporting.cancel()


def test_a_server_that_waits_for_its_first_request_is_ready(manager: NotifySocket):
    engine = engine_of(FakeRunner().loaded)
    asyncio.run(report_until(engine, manager, "READY=1", "STATUS=idle: the first request loads gemma"))
    assert engine.state is EngineState.IDLE


def test_a_server_that_loads_is_ready_once_it_has_loaded(manager: NotifySocket, runner: FakeRunner):
    runner.gates["begin"].close()

    def load():
        runner.gates["begin"].enter()
        return runner.loaded()

    async def scene():
        engine = engine_of(load)
        engine.start_loading()
        await report_until(engine, manager, "STATUS=loading gemma", "WATCHDOG=1")
        assert "READY=1" not in manager.told
        runner.open_gates()
        status = "STATUS=ready: gemma on fake, 2 slots; 0 running, 0 waiting"
        await report_until(engine, manager, "READY=1", status)
        engine.close()

    asyncio.run(scene())


def test_a_start_whose_load_fails_ends_the_server_and_says_why(manager: NotifySocket):
    def load():
        raise ModelLoadError("The disk\nis full.")

    async def scene():
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        engine = engine_of(load)
        engine.start_loading()
        reporting = asyncio.create_task(Reporter(engine, "gemma").run())
        await asyncio.wait_for(stopped.wait(), TIMEOUT_S)
        reporting.cancel()

    asyncio.run(scene())
    wait_until(lambda: "STATUS=failed: The disk is full." in manager.told)
    assert "READY=1" not in manager.told


def test_a_server_that_has_been_ready_lives_on_when_a_load_fails(manager: NotifySocket):
    def load():
        raise ModelLoadError("The hub is away.")

    async def scene():
        engine = engine_of(load)
        reporter = Reporter(engine, "gemma")
        reporting = asyncio.create_task(reporter.run())
        await asyncio.sleep(0.05)
        engine.start_loading()
        await until(lambda: "STATUS=failed: The hub is away." in manager.told)
        assert not reporting.done()
        reporting.cancel()

    asyncio.run(scene())


def test_a_hung_step_is_reported_for_a_restart_with_what_every_thread_does(
    manager: NotifySocket, runner: FakeRunner, capfd: pytest.CaptureFixture[str]
):
    runner.gates["decode"].close()

    async def scene():
        engine = engine_of(runner.loaded, step_limit_s=0.2)
        await engine.wait_ready(TIMEOUT_S)
        events = engine.generate(request(b"Hi"))
        asking = asyncio.ensure_future(anext(events))
        await report_until(engine, manager, "WATCHDOG=trigger", "STATUS=stuck in a step that does not end")
        runner.open_gates()
        await asking
        await events.aclose()
        engine.close()

    asyncio.run(scene())
    assert manager.told.index("WATCHDOG=1") < manager.told.index("WATCHDOG=trigger")
    assert "in enter" in capfd.readouterr().err


def test_a_dead_engine_asks_for_a_restart(manager: NotifySocket, runner: FakeRunner):
    runner.raise_in("release", RuntimeError("gone"))

    async def scene():
        engine = engine_of(runner.loaded)
        await engine.wait_ready(TIMEOUT_S)
        [event async for event in engine.generate(request(b"Hi"))]
        await report_until(engine, manager, "WATCHDOG=trigger")
        engine.close()

    asyncio.run(scene())


def test_a_server_that_drains_says_so(manager: NotifySocket, runner: FakeRunner):
    async def scene():
        engine = engine_of(runner.loaded)
        await engine.wait_ready(TIMEOUT_S)
        await engine.drain(0)
        await report_until(engine, manager, "STATUS=draining: 0 running, 0 waiting")
        engine.close()

    asyncio.run(scene())


def test_a_status_is_told_once(manager: NotifySocket):
    async def scene():
        engine = engine_of(FakeRunner().loaded)
        reporting = asyncio.create_task(Reporter(engine, "gemma").run())
        await until(lambda: manager.told.count("WATCHDOG=1") > 2)
        reporting.cancel()

    asyncio.run(scene())
    assert len([told for told in manager.told if told.startswith("STATUS=")]) == 1
    assert manager.told.count("READY=1") == 1


def test_gunicorn_finds_no_socket_and_we_do(manager: NotifySocket, monkeypatch: pytest.MonkeyPatch):
    systemd.move_socket_aside()
    assert "NOTIFY_SOCKET" not in os.environ
    systemd.notify("READY=1")
    wait_until(lambda: manager.told == ["READY=1"])


@pytest.mark.parametrize("address", [None, "/nowhere/notify"])
def test_where_nobody_listens_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify("READY=1")


def test_what_goes_wrong_while_it_reports_is_logged_and_not_the_end(
    manager: NotifySocket, monkeypatch: pytest.MonkeyPatch
):
    engine = engine_of(FakeRunner().loaded)
    faults = [RuntimeError("unforeseen")]

    def number(_engine: Engine) -> int:
        if faults:
            raise faults.pop()
        return 0

    monkeypatch.setattr(Engine, "num_running", property(number))
    with structlog.testing.capture_logs() as logs:
        asyncio.run(report_until(engine, manager, "STATUS=idle: the first request loads gemma"))
    assert "report_failed" in [line["event"] for line in logs]


def test_a_hung_warm_up_counts_as_stuck(manager: NotifySocket, runner: FakeRunner):
    runner.gates["begin"].close()
    pulse = Pulse(0.2)

    def load():
        pulse.beat()
        runner.gates["begin"].enter()
        return runner.loaded()

    async def scene():
        engine = Engine(load, max_queue=8, prefill_chunk=64, pulse=pulse)
        engine.start_loading()
        await report_until(engine, manager, "WATCHDOG=trigger")
        runner.open_gates()
        await engine.wait_ready(TIMEOUT_S)
        engine.close()

    asyncio.run(scene())
