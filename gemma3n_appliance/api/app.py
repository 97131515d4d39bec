"""Puts the routes and the layers around them together."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import falcon.asgi
from falcon.asgi import Request, Response

from ..engine.engine import Engine
from ..prompt.prompts import Prompts
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.completion_request import CompletionRequest
from ..protocol.reading import Reading
from ..protocol.responses_request import ResponsesRequest
from ..settings import Settings
from . import chat, completions, errors, page, responses
from .access import AccessLog
from .cors import Cors
from .description import DescriptionResource
from .disconnect import ASGIApp, CancelOnDisconnect
from .generation import GenerationResource
from .health import HealthResource
from .keys import KeyGate, Keys, RefuseWithoutKey
from .metrics import Metrics, MetricsResource
from .models import ModelNames, ModelsResource
from .status import RecentErrors, StatusResource
from .tokens import TokensResource


class Lifespan(Protocol):
    """What happens when the server starts and stops, in Falcon's words."""

    async def process_startup(self, scope: object, event: object) -> None:
        """Called before the first request."""

    async def process_shutdown(self, scope: object, event: object) -> None:
        """Called after the last."""


def create(
    settings: Settings,
    engine: Engine,
    prompts: Prompts,
    keys: Keys | None,
    sensors: Callable[[], Iterable[Reading]],
    lifespan: Lifespan,
) -> ASGIApp:
    """Returns the ASGI app, which answers anybody where there are no ``keys``."""
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App(
        middleware=[lifespan, Cors(settings.cors_origins), RefuseWithoutKey()]
    )
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    names = ModelNames(settings)
    models = ModelsResource(names)
    health = HealthResource(engine, names)
    failures = RecentErrors()
    metrics = Metrics(engine, names.listed, sensors)
    route = partial(GenerationResource, settings, engine, names, metrics)
    chats = route(ChatCompletionRequest, partial(chat.ask, prompts))
    texts = route(CompletionRequest, partial(completions.ask, prompts), operation="text_completion")
    answers = route(ResponsesRequest, partial(responses.ask, prompts), has_typed_events=True)
    app.add_route("/v1/chat/completions", chats)
    app.add_route("/v1/completions", texts)
    app.add_route("/v1/responses", answers)
    app.add_route("/v1/models", models)
    app.add_route("/v1/models/{name:path}", models, suffix="one")
    tokens = TokensResource(settings, engine, prompts, names)
    app.add_route("/tokenize", tokens, suffix="tokenize")
    app.add_route("/detokenize", tokens, suffix="detokenize")
    app.add_route("/openapi.json", DescriptionResource())
    app.add_route("/metrics", MetricsResource(metrics))
    app.add_route("/status", StatusResource(health, sensors, failures))
    page.add_routes(app)
    app.add_route("/health", health)
    app.add_route("/health/ready", health, suffix="ready")
    inner: ASGIApp = CancelOnDisconnect(app)
    if keys is not None:
        inner = KeyGate(inner, keys, settings.max_concurrent_per_key, engine.retry_after_s)
    return AccessLog(inner, metrics, failures)
