"""From the form that a request wants its answer in to the grammar that the answer will keep to."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from ..engine.grammar import Grammar, Grammars, GrammarSource
from ..errors import GrammarError
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.structured import JsonObjectFormat, JsonSchemaFormat, StructuredOutputs

# Ten times the schemas that people write. Compiling one of this size takes about a second.
MAX_CHARACTERS = 200_000
# How much of a schema is compiled by itself to find what is wrong with it.
_MOST_TRIES = 300

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_HAS_SUBSCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_HAS_LIST_OF_SUBSCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_HAS_SUBSCHEMA = ("items", "additionalProperties")


def grammar(body: ChatCompletionRequest, grammars: Grammars) -> Grammar | None:
    """Returns what the answer must keep to; None where it is free.

    Raises:
        GrammarError: not valid, or more than llguidance does; ``param`` is the path to the fault.
    """
    asked = _asked(body)
    if asked is None:
        return None
    source, param = asked
    if len(source.text) > MAX_CHARACTERS:
        raise GrammarError(f"'{param}' is longer than {MAX_CHARACTERS} characters.", param=param)
    try:
        return grammars.compile(source)
    except GrammarError as error:
        place = param
        if source.kind == "json_schema":
            place += _place_of(error, json.loads(source.text), grammars)
        raise GrammarError(f"'{place}' cannot be kept to: {error.message}.", param=place) from None


def _asked(body: ChatCompletionRequest) -> tuple[GrammarSource, str] | None:
    """Returns the grammar, and where in the body it stands."""
    form = body.response_format
    if isinstance(form, JsonObjectFormat):
        return _of_schema(_ANY_OBJECT), "response_format"
    if isinstance(form, JsonSchemaFormat):
        schema = form.json_schema.json_schema
        return _of_schema(_ANY_OBJECT if schema is None else schema), "response_format.json_schema.schema"
    return _structured(body.structured_outputs) if body.structured_outputs else None


def _structured(form: StructuredOutputs) -> tuple[GrammarSource, str] | None:
    if form.json_schema is not None:
        return _of_schema(_parsed(form.json_schema)), "structured_outputs.json"
    if form.choice is not None:
        return GrammarSource("choice", json.dumps(form.choice)), "structured_outputs.choice"
    if form.regex is not None:
        return GrammarSource("regex", form.regex), "structured_outputs.regex"
    if form.grammar is not None:
        return GrammarSource("cfg", form.grammar), "structured_outputs.grammar"
    return (_of_schema(_ANY_OBJECT), "structured_outputs.json_object") if form.json_object else None


def _parsed(schema: dict[str, Any] | str) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return from_json(schema)
    except ValueError as error:
        raise GrammarError(
            f"'structured_outputs.json' is not JSON: {error}.", param="structured_outputs.json"
        ) from None


def _of_schema(schema: Any) -> GrammarSource:
    return GrammarSource("json_schema", json.dumps(schema, ensure_ascii=False))


def _place_of(error: GrammarError, schema: Any, grammars: Grammars) -> str:
    """Returns the path to the innermost part of a schema about which there is the same complaint."""
    path = ""
    tries = 0
    parts = _subschemas(schema)
    while (part := next(parts, None)) is not None and tries < _MOST_TRIES:
        step, subschema = part
        tries += 1
        if _complaint(subschema, grammars) == error.message:
            path += step
            parts = _subschemas(subschema)
    return path


def _complaint(schema: Any, grammars: Grammars) -> str | None:
    try:
        grammars.compile(_of_schema(schema))
    except GrammarError as error:
        return error.message
    return None


def _subschemas(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yields the schemas within one, each with its path from there."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword in _HAS_SUBSCHEMAS_BY_NAME and isinstance(value, dict):
            yield from ((f".{keyword}.{name}", part) for name, part in value.items())
        elif keyword in _HAS_LIST_OF_SUBSCHEMAS and isinstance(value, list):
            yield from ((f".{keyword}[{index}]", part) for index, part in enumerate(value))
        elif keyword in _HAS_SUBSCHEMA:
            yield f".{keyword}", value
