"""Composition root: Settings → Prompts and Engine → ASGI app. The only module that knows them all."""

from pathlib import Path

import structlog

from .api.app import create
from .api.disconnect import ASGIApp
from .engine.engine import Engine
from .engine.runner import LoadedModel
from .host.download import ensure_model, is_on_disk
from .prompt.prompts import Prompts
from .settings import Settings, load

log = structlog.get_logger(__name__)

# By the time the server shuts down its connections are gone, and what they asked for with them.
DRAIN_S = 10.0


def app() -> ASGIApp:
    """Returns the app as the environment describes it; gunicorn calls this in its worker."""
    return build(load())


def build(settings: Settings) -> ASGIApp:
    """Returns the app, whose engine starts once the server does."""
    prompts = Prompts(settings)
    engine = Engine(
        lambda: _load_model(settings, prompts),
        max_queue=settings.max_queue,
        prefill_chunk=settings.prefill_chunk,
    )
    return create(settings, engine, prompts, EngineLifespan(settings, engine))


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
        """Lets what runs finish, for a while."""
        await self._engine.drain(DRAIN_S)
        self._engine.close()
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
