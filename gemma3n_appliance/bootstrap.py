"""Composition root: Settings → Prompts and Engine → ASGI app. The only module that knows them all."""

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import structlog

from .api.app import create
from .api.disconnect import Receive, Scope, Send
from .engine.engine import Engine
from .engine.pulse import Pulse
from .engine.runner import LoadedModel
from .host import sensors, systemd
from .host.download import ensure_model, is_on_disk
from .host.key_file import KeyRing
from .host.warm_up import warm_up
from .prompt.prompts import Prompts
from .settings import Settings, load

# A download takes as long as it takes, but weights on the disk that take longer are on one that hangs.
WEIGHTS_LIMIT_S = 900.0

log = structlog.get_logger(__name__)


class Appliance:
    """The ASGI app, which its server can also drain."""

    def __init__(self, settings: Settings, engine: Engine, prompts: Prompts) -> None:
        self._engine = engine
        keys = KeyRing(settings.api_keys_file) if settings.api_keys_file else None
        lifespan = EngineLifespan(settings, engine)
        self._app = create(settings, engine, prompts, keys, sensors.readings, lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or follows the server's life."""
        await self._app(scope, receive, send)

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing new, and lets what runs finish within ``timeout_s``."""
        await self._engine.drain(timeout_s)


def app() -> Appliance:
    """Returns the app as the environment describes it; gunicorn calls this in its worker."""
    return build(load())


def build(settings: Settings) -> Appliance:
    """Returns the app, whose engine starts once the server does."""
    prompts = Prompts(settings)
    pulse = Pulse(settings.step_limit)
    engine = Engine(
        lambda: _load_model(settings, prompts, pulse),
        max_queue=settings.max_queue,
        prefill_chunk=settings.prefill_chunk,
        pulse=pulse,
    )
    return Appliance(settings, engine, prompts)


class EngineLifespan:
    """Starts and stops the engine, and its reports to systemd, with the server; as Falcon's middleware."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._reporting: asyncio.Task[None] | None = None

    async def process_startup(self, _scope: object, _event: object) -> None:
        """Begins to load a model that is on disk; one that is not waits for the first request."""
        on_disk = is_on_disk(self._settings)
        log.info("started", model=self._settings.repo_id, on_disk=on_disk)
        if on_disk:
            self._engine.start_loading()
        if systemd.started_us():
            reporter = systemd.Reporter(self._engine, self._settings.repo_id)
            self._reporting = asyncio.create_task(reporter.run())

    async def process_shutdown(self, _scope: object, _event: object) -> None:
        """Ends the engine, which the server has drained."""
        await asyncio.to_thread(self._engine.close)
        if self._reporting:
            self._reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporting
        log.info("stopped")


def _load_model(settings: Settings, prompts: Prompts, pulse: Pulse) -> LoadedModel:
    """Runs in the engine's thread; importing torch alone takes seconds, in which /health answers."""
    directory: Path = ensure_model(settings)
    _ = prompts.files  # a checkpoint that cannot be prompted is not worth loading
    pulse.beat(WEIGHTS_LIMIT_S)
    with _nothing_collected():
        from .model.loader import load as load_weights

    model = load_weights(directory, settings)
    warm_up(model, prompts, settings.prefill_chunk, pulse)
    pulse.rest()
    return model


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """For an import of half a million objects that stay.

    Looking through them again and again while they come takes a sixth of the time; looking through them
    later, for as long as the process lives, would stop everything for some tenths of a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
