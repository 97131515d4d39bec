"""Composition root: Settings → Prompts and Engine → ASGI app. The only module that knows them all."""

import asyncio
from pathlib import Path

import structlog

from .api.app import create
from .api.disconnect import Receive, Scope, Send
from .engine.engine import Engine
from .engine.runner import LoadedModel
from .host.download import ensure_model, is_on_disk
from .prompt.prompts import Prompts
from .settings import Settings, load

log = structlog.get_logger(__name__)


class Appliance:
    """The ASGI app, which its server can also drain."""

    def __init__(self, settings: Settings, engine: Engine, prompts: Prompts) -> None:
        self._engine = engine
        self._app = create(settings, engine, prompts, EngineLifespan(settings, engine))

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
    engine = Engine(
        lambda: _load_model(settings, prompts),
        max_queue=settings.max_queue,
        prefill_chunk=settings.prefill_chunk,
    )
    return Appliance(settings, engine, prompts)


class EngineLifespan:
    """Starts and stops the engine with the server, as Falcon's middleware."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine

    async def process_startup(self, _scope: object, _event: object) -> None:
        """Begins to load a model that is on disk; one that is not waits for the first request."""
        on_disk = is_on_disk(self._settings)
        log.info("started", model=self._settings.repo_id, on_disk=on_disk)
        if on_disk:
            self._engine.start_loading()

    async def process_shutdown(self, _scope: object, _event: object) -> None:
        """Ends the engine, which the server has drained."""
        await asyncio.to_thread(self._engine.close)
        log.info("stopped")


def _load_model(settings: Settings, prompts: Prompts) -> LoadedModel:
    """Runs in the engine's thread; importing torch alone takes seconds, in which /health answers."""
    directory: Path = ensure_model(settings)
    _ = prompts.files  # a checkpoint that cannot be prompted is not worth loading
    from .model.loader import load as load_weights

    return load_weights(
        directory,
        device=settings.device,
        dtype=settings.dtype,
        num_slots=settings.num_slots,
        context_length=settings.context_length,
    )
