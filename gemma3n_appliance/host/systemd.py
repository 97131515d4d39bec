"""What systemd is told of the server: that it is ready, how it is, and that it is alive (sd_notify(3))."""

import asyncio
import faulthandler
import os
import signal
import socket

import structlog

from ..engine.engine import Engine, EngineState

log = structlog.get_logger(__name__)

REPORT_EVERY_S = 1.0
# How long systemd may be too busy to listen.
PATIENCE_S = 1.0

_SOCKET = "NOTIFY_SOCKET"
_SOCKET_ASIDE = "GEMMA3N_NOTIFY_SOCKET"


def move_socket_aside() -> None:
    """Hides systemd's socket from gunicorn, which would say READY=1 before there is any worker."""
    if address := os.environ.pop(_SOCKET, None):
        os.environ[_SOCKET_ASIDE] = address


def started_us() -> bool:
    """Whether systemd waits for READY=1."""
    return _address() is not None


def notify(*assignments: str) -> None:
    """Sends assignments such as ``READY=1`` to systemd; does nothing where it did not start us."""
    address = _address()
    if address is None:
        return
    abstract_or_path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
            to_systemd.settimeout(PATIENCE_S)
            to_systemd.connect(abstract_or_path)
            to_systemd.sendall("\n".join(assignments).encode())
    except OSError as error:
        log.warning("systemd_not_told", assignments=assignments, reason=str(error))


def status(text: str) -> str:
    """Returns the assignment that shows ``text`` in ``systemctl status``."""
    return "STATUS=" + " ".join(text.split())


def _address() -> str | None:
    return os.environ.get(_SOCKET_ASIDE) or os.environ.get(_SOCKET) or None


class Reporter:
    """Reports the engine's state, and feeds the watchdog as long as the engine makes progress.

    READY=1 is sent once the model answers, or where it is to be loaded by the first request. A start whose
    load fails ends the server instead, for systemd to try again.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._status = ""
        self._was_ready = False
        self._has_given_up = False

    async def run(self) -> None:
        """Reports until it is cancelled."""
        while True:
            try:
                self._report(self._engine.state)
            except Exception:
                log.exception("report_failed")
            await asyncio.sleep(REPORT_EVERY_S)

    def _report(self, state: EngineState) -> None:
        told = []
        if state not in (EngineState.STUCK, EngineState.DEAD):
            told.append("WATCHDOG=1")
        elif not self._has_given_up:
            told.append("WATCHDOG=trigger")
            self._give_up(state)
        if state in (EngineState.READY, EngineState.IDLE) and not self._was_ready:
            self._was_ready = True
            told.append("READY=1")
        if (text := self._text(state)) != self._status:
            self._status = text
            told.append(status(text))
        notify(*told)
        if state is EngineState.FAILED and not (self._was_ready or self._has_given_up):
            self._has_given_up = True
            signal.raise_signal(signal.SIGTERM)  # a worker's end is the server's, see gunicorn_conf

    def _give_up(self, state: EngineState) -> None:
        self._has_given_up = True
        log.critical("restart_asked_for", state=state.value)
        faulthandler.dump_traceback()  # into the journal: where every thread is

    def _text(self, state: EngineState) -> str:
        engine, model, failure = self._engine, self._engine.model_if_ready, self._engine.last_error
        error = f": {failure.message}" if failure else ""
        work = f"{engine.num_running} running, {engine.num_waiting} waiting"
        return {
            EngineState.IDLE: f"idle: the first request loads {self._model}",
            EngineState.LOADING: f"loading {self._model}",
            EngineState.READY: f"ready: {self._model} on {model.device if model else ''}, "
            f"{engine.num_slots} slots; {work}",
            EngineState.FAILED: f"failed{error}",
            EngineState.DRAINING: f"draining: {work}",
            EngineState.STUCK: "stuck in a step that does not end",
            EngineState.DEAD: f"dead{error}",
        }[state]
