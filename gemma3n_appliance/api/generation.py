"""The way of every request for generated text: body, model, prompt, events, a reply whole or in chunks."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from falcon.asgi import Request, Response
from structlog.contextvars import get_contextvars

from ..engine.engine import Engine
from ..engine.request import GenerationRequest
from ..engine.runner import LoadedModel
from ..protocol.other_routes import refuse_of_other_routes
from ..protocol.reply import Reply
from ..protocol.wire import TextRequest
from ..reply.told import ChunkedReply, Events, Tally, chunks, gather
from ..settings import Settings
from . import sse
from .account import Account
from .body import read_json
from .disconnect import Scope
from .keys import max_body_mb
from .metrics import Metrics
from .models import ModelNames
from .remote_media import RemoteMedia
from .workers import Workers

BodyT = TypeVar("BodyT", bound=TextRequest)


@dataclass(frozen=True)
class Asked:
    """What the engine is asked to do, and how its events are told."""

    requests: tuple[GenerationRequest, ...]
    reply: ChunkedReply[Reply]


# Takes a request's id, and what was fetched for it by its URLs. Called in a thread.
Ask = Callable[[BodyT, LoadedModel, str, Mapping[str, bytes]], Asked]


class GenerationResource(Generic[BodyT]):
    """Answers one kind of request for text."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        names: ModelNames,
        metrics: Metrics,
        body: type[BodyT],
        ask: Ask[BodyT],
        *,
        operation: str = "chat",
        has_typed_events: bool = False,
    ) -> None:
        """``operation`` is OpenTelemetry's word for what is done, for the metrics."""
        self._settings = settings
        self._engine = engine
        self._names = names
        self._body = body
        self._ask = ask
        self._has_typed_events = has_typed_events
        self._metrics = metrics
        self._remote_media = (
            RemoteMedia(settings.remote_media_networks) if settings.allow_remote_media else None
        )
        self._operation = operation
        # Apart, so that a line of text does not wait until somebody's photographs are decoded.
        self._for_text, self._for_media = Workers(), Workers()
        # Probabilities of tokens are megabytes.
        self._for_replies = Workers()

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answers plainly or as a stream, as the body says."""
        with self._engine.place_in_line():
            body = await read_json(
                req, self._body, self._settings.max_body_mb, self._for_text, refuse_of_other_routes
            )
        self._names.check(body.model)
        if body.stream:
            await sse.stream(req.scope, resp, self._chunks(req.scope, body), is_typed=self._has_typed_events)
        else:
            events, reply = await self._begin(req.scope, body)
            told = await gather(events, reply)
            resp.data = await self._for_replies.run(lambda: reply.whole(told).to_json())

    async def _begin(self, scope: Scope, body: BodyT) -> tuple[Events, ChunkedReply[Reply]]:
        """Waits for the model, makes the prompt and returns the events to come."""
        account = Account.open(scope, self._operation)
        workers = self._for_media if body.has_media else self._for_text
        with self._engine.place_in_line(again=True):
            model = await self._engine.wait_ready(self._settings.load_wait)
            fetched = await self._fetched(scope, body)
            asked = await workers.run(self._ask, body, model, get_contextvars()["request_id"], fetched)
        account.tally = Tally(asked.reply.num_choices)
        events = account.kept(self._engine.generate(*asked.requests), self._metrics)
        return events, asked.reply

    async def _fetched(self, scope: Scope, body: BodyT) -> Mapping[str, bytes]:
        pictures = body.pictures_elsewhere if self._remote_media else {}
        if not (self._remote_media and pictures):
            return {}
        return await self._remote_media.fetch(pictures, max_body_mb(scope, self._settings.max_body_mb))

    async def _chunks(self, scope: Scope, body: BodyT) -> AsyncGenerator[Reply, None]:
        """Begins inside the stream, which tells the client that it is alive while a model loads."""
        events, reply = await self._begin(scope, body)
        async with aclosing(chunks(events, reply)) as said:
            async for chunk in said:
                yield chunk
