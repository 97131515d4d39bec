"""``GET /health``, which answers as long as there is hope, and ``GET /health/ready``."""

import time

import falcon
from falcon.asgi import Request, Response

from .. import __version__
from ..engine.engine import Engine, EngineState
from ..protocol.health import Health, Queue
from .models import ModelNames


class HealthResource:
    """Says how the server is; never waits for anything."""

    def __init__(self, engine: Engine, names: ModelNames) -> None:
        self._engine = engine
        self._names = names
        self._began = time.monotonic()

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Answers 503 only where the engine is dead, or so long in one step that it may as well be."""
        self._answer(resp, is_well=self._engine.state not in (EngineState.DEAD, EngineState.STUCK))

    async def on_get_ready(self, _req: Request, resp: Response) -> None:
        """Answers 503 while a request would have to wait for a load, or would be refused."""
        self._answer(resp, is_well=self._engine.state is EngineState.READY and self._engine.has_room)

    def _answer(self, resp: Response, *, is_well: bool) -> None:
        resp.status = falcon.HTTP_200 if is_well else falcon.HTTP_503
        resp.set_header("Cache-Control", "no-store")
        resp.data = self.health().model_dump_json().encode()

    def health(self) -> Health:
        """Returns how the server is."""
        engine = self._engine
        model, rate = engine.model_if_ready, engine.tokens_per_s
        return Health(
            status=engine.state.value,
            model=self._names.listed,
            device=model.device if model else None,
            bytes_left_on_disk=model.num_bytes_left_on_disk if model else None,
            version=__version__,
            queue=Queue(running=engine.num_running, waiting=engine.num_waiting, slots=engine.num_slots),
            tokens_per_s=None if rate is None else round(rate, 1),
            uptime_s=round(time.monotonic() - self._began, 1),
            error=engine.last_error.message if engine.last_error else None,
        )
