"""``GET /openapi.json``: what this server takes and answers, from the very models that check it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from .chat_reply import ChatCompletion, ChatCompletionChunk
from .chat_request import ChatCompletionRequest
from .completion_reply import Completion
from .completion_request import CompletionRequest
from .error import ErrorReply
from .health import Health
from .model_list import Model, ModelList
from .responses_reply import Response, ResponseEvent
from .responses_request import ResponsesRequest
from .status import Status
from .tokens import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest

_JSON = "application/json"
_REFUSALS = {
    400: "What was sent is wrong; `param` says where.",
    401: "There is no such API key, or none was sent where the server wants one.",
    404: "There is no such model.",
    405: "Another method is meant; `Allow` says which.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "The queue is full, or the key has its share of it; `Retry-After` says when to try again.",
    500: "The server failed; its log says why.",
    503: "Not now: the model is loading, memory is short, or the server stops.",
}
_SECONDS = {
    "schema": {"type": "integer", "minimum": 1},
    "description": "Seconds until another try is worth it.",
}
_REQUEST_ID = {"schema": {"type": "string"}, "description": "The name of the request in the server's log."}


@dataclass(frozen=True)
class _Operation:
    """One thing that can be asked for; ``refusals`` are the statuses of answers that are errors."""

    name: str
    method: str
    path: str
    summary: str
    reply: type[BaseModel] | None
    body: type[BaseModel] | None = None
    chunk: type[BaseModel] | None = None
    has_typed_events: bool = False
    refusals: tuple[int, ...] = (401, 405, 429, 500)
    is_well_or_not: bool = False

    @property
    def models(self) -> list[type[BaseModel]]:
        """What it takes and answers, whole and in chunks."""
        return [model for model in (self.reply, self.body, self.chunk) if model]


_ALL = tuple(_REFUSALS)
_OPERATIONS = (
    _Operation(
        "createChatCompletion",
        "post",
        "/v1/chat/completions",
        "Answers a conversation.",
        ChatCompletion,
        ChatCompletionRequest,
        ChatCompletionChunk,
        refusals=_ALL,
    ),
    _Operation(
        "createResponse",
        "post",
        "/v1/responses",
        "Answers a conversation, in OpenAI's newer form.",
        Response,
        ResponsesRequest,
        ResponseEvent,
        has_typed_events=True,
        refusals=_ALL,
    ),
    _Operation(
        "createCompletion",
        "post",
        "/v1/completions",
        "Goes on with texts or tokens.",
        Completion,
        CompletionRequest,
        Completion,
        refusals=_ALL,
    ),
    _Operation("listModels", "get", "/v1/models", "Lists the one model there is.", ModelList),
    _Operation(
        "getModel",
        "get",
        "/v1/models/{name}",
        "Tells of the model by any of its names.",
        Model,
        refusals=(401, 404, 405, 429, 500),
    ),
    _Operation("tokenize", "post", "/tokenize", "Counts tokens.", Tokenized, TokenizeRequest, refusals=_ALL),
    _Operation(
        "detokenize", "post", "/detokenize", "Reads tokens.", Detokenized, DetokenizeRequest, refusals=_ALL
    ),
    _Operation("getMetrics", "get", "/metrics", "Tells Prometheus of requests and of the board.", None),
    _Operation("getStatus", "get", "/status", "Tells what the page at / shows.", Status),
    _Operation(
        "getHealth",
        "get",
        "/health",
        "Tells how the server is.",
        Health,
        refusals=(405, 500),
        is_well_or_not=True,
    ),
    _Operation(
        "getReadiness",
        "get",
        "/health/ready",
        "Tells whether a request would be taken.",
        Health,
        refusals=(405, 500),
        is_well_or_not=True,
    ),
)


def document(version: str) -> dict[str, Any]:
    """Returns the description as an OpenAPI 3.1 document."""
    models = [model for operation in _OPERATIONS for model in operation.models] + [ErrorReply]
    schemas = _Schemas(models)
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gemma3n_appliance",
            "version": version,
            "description": "Gemma 3n as OpenAI's clients know it.",
        },
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": schemas.definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The schemas of models, each under a name of its own."""

    # What a reply leaves out where there is nothing to tell is not required: as if it were read.
    _MODE: JsonSchemaMode = "validation"

    def __init__(self, models: Sequence[type[BaseModel]]) -> None:
        wanted = [(model, self._MODE) for model in dict.fromkeys(models)]
        self._references, defined = models_json_schema(
            wanted, by_alias=True, ref_template="#/components/schemas/{model}"
        )
        self.definitions: dict[str, Any] = defined["$defs"]

    def of(self, model: type[BaseModel]) -> dict[str, Any]:
        """Returns a reference to a model's schema."""
        return self._references[(model, self._MODE)]


def _event(chunk: dict[str, Any], *, is_typed: bool) -> dict[str, Any]:
    """Returns the schema of one event; streams of chunks without types end with one more, ``[DONE]``."""
    data = {"type": "string", "contentMediaType": _JSON, "contentSchema": chunk}
    if is_typed:
        return {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": data},
            "required": ["event", "data"],
        }
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
        "required": ["data"],
    }


def _described(operation: _Operation, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if operation.reply:
        content = {_JSON: {"schema": schemas.of(operation.reply)}}
    if operation.chunk:
        event = _event(schemas.of(operation.chunk), is_typed=operation.has_typed_events)
        content["text/event-stream"] = {"schema": event}
    responses: dict[str, Any] = {"200": _answer("The answer.", content)}
    error = {_JSON: {"schema": schemas.of(ErrorReply)}}
    for status in operation.refusals:
        responses[str(status)] = _answer(_REFUSALS[status], error, can_wait=status in (429, 503))
    if operation.is_well_or_not:
        responses["503"] = _answer("Not well, or not ready.", content)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": responses,
    }
    if operation.is_well_or_not:
        described["security"] = [{}]
    if operation.body:
        body = {_JSON: {"schema": schemas.of(operation.body)}}
        described["requestBody"] = {"required": True, "content": body}
    if "{name}" in operation.path:
        described["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return described


def _answer(description: str, content: dict[str, Any], *, can_wait: bool = False) -> dict[str, Any]:
    headers = {"x-request-id": _REQUEST_ID} | ({"Retry-After": _SECONDS} if can_wait else {})
    return {"description": description, "headers": headers, "content": content}
