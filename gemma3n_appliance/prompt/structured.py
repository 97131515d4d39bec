"""From the form that a request wants its answer in to the grammar that the answer will keep to."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from ..engine.grammar import Grammar, Grammars, GrammarSource
from ..errors import GrammarError
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.generation_fields import GenerationFields
from ..protocol.structured import JsonObjectFormat, JsonSchemaFormat, StructuredOutputs
from . import tools

# Ten times the schemas that people write. Compiling one of this size can take some seconds.
MAX_CHARACTERS = 200_000
# Written by hand, and read by Python if it is GBNF.
MAX_GRAMMAR_CHARACTERS = 20_000
# How long the parts of a schema are compiled, each by itself, to find the one that something is wrong with.
_SEARCH_S = 1.0
_LONGEST_PLACE = 200

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_HAS_SUBSCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_HAS_LIST_OF_SUBSCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_HAS_SUBSCHEMA = ("items", "additionalProperties")


@dataclass(frozen=True, slots=True)
class _Form:
    """A grammar, where in the body it stands, and the schemas in it by where they stand."""

    source: GrammarSource
    param: str
    schemas: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of_schema(cls, schema: Any, param: str) -> "_Form":
        return cls(_source(schema), param, ((param, schema),))


def grammar(body: GenerationFields, grammars: Grammars) -> Grammar | None:
    """Returns what the answer must keep to; None where it is free.

    Raises:
        GrammarError: not valid, or more than llguidance does; ``param`` is the path to the fault.
    """
    form = _form_with_calls(body) if isinstance(body, ChatCompletionRequest) else _answer_form(body)
    if form is None:
        return None
    _check_length(form.source.text, form.param)
    try:
        return grammars.compile(form.source)
    except GrammarError as error:
        raise _placed(error, form, grammars) from None


def _form_with_calls(body: ChatCompletionRequest) -> _Form | None:
    answer = _answer_form(body)
    functions = body.functions_to_call
    if not functions:
        return answer
    schemas = {
        f"tools[{index}].function.parameters": tools.parameters(tool.function)
        for index, tool in enumerate(body.tools or ())
        if tool.function in functions
    }
    text = tools.grammar(
        functions,
        must_call=body.must_call,
        parallel=body.may_call_in_parallel,
        answer=answer.schemas[0][1] if answer else None,
    )
    return _Form(GrammarSource("cfg", text), "tools", (*schemas.items(), *(answer.schemas if answer else ())))


def _answer_form(body: GenerationFields) -> _Form | None:
    form = body.response_format
    if isinstance(form, JsonObjectFormat):
        return _Form.of_schema(_ANY_OBJECT, "response_format")
    if isinstance(form, JsonSchemaFormat):
        schema = form.json_schema.json_schema
        return _Form.of_schema(
            _ANY_OBJECT if schema is None else schema, "response_format.json_schema.schema"
        )
    return _structured(body.structured_outputs) if body.structured_outputs else None


def _structured(form: StructuredOutputs) -> _Form | None:
    if form.json_schema is not None:
        return _Form.of_schema(_parsed(form.json_schema), "structured_outputs.json")
    if form.choice is not None:
        return _Form(GrammarSource("choice", json.dumps(form.choice)), "structured_outputs.choice")
    if form.regex is not None:
        return _Form(GrammarSource("regex", form.regex), "structured_outputs.regex")
    if form.grammar is not None:
        _check_length(form.grammar, "structured_outputs.grammar", MAX_GRAMMAR_CHARACTERS)
        return _Form(GrammarSource("cfg", form.grammar), "structured_outputs.grammar")
    return _Form.of_schema(_ANY_OBJECT, "structured_outputs.json_object") if form.json_object else None


def _parsed(schema: dict[str, Any] | str) -> Any:
    if not isinstance(schema, str):
        return schema
    _check_length(schema, "structured_outputs.json")
    try:
        return from_json(schema)
    except ValueError as error:
        raise GrammarError(
            f"'structured_outputs.json' is not JSON: {error}.", param="structured_outputs.json"
        ) from None


def _source(schema: Any) -> GrammarSource:
    return GrammarSource("json_schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")))


def _check_length(text: str, param: str, most: int = MAX_CHARACTERS) -> None:
    if len(text) > most:
        raise GrammarError(f"'{param}' is longer than {most} characters.", param=param)


def _placed(error: GrammarError, form: _Form, grammars: Grammars) -> GrammarError:
    """Returns the error with the path to the innermost part that there is something to say against."""
    place, complaint = form.param, error.message
    for param, schema in form.schemas:
        if own := grammars.complaint(_source(schema)):
            place, complaint = param + _place_in(schema, own, grammars), own
            break
    if len(place) > _LONGEST_PLACE:
        place = f"{place[:_LONGEST_PLACE]}…"
    return GrammarError(f"'{place}' cannot be kept to: {complaint}.", param=place)


def _place_in(schema: Any, complaint: str, grammars: Grammars) -> str:
    """Returns the path to the innermost part of a schema about which there is the same to say."""
    path = ""
    end_s = time.monotonic() + _SEARCH_S
    parts = _subschemas(schema)
    while (part := next(parts, None)) is not None and time.monotonic() < end_s:
        step, subschema = part
        if grammars.complaint(_source(subschema)) == complaint:
            path += step
            parts = _subschemas(subschema)
    return path


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
