"""Functions in the words that Gemma is told of them with, and the grammar that keeps its calls in form.

The words are Google's, https://ai.google.dev/gemma/docs/capabilities/function-calling. What a function
returned goes into a block ``tool_output``, as in Google's examples of Gemma with tools.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from ..engine.grammar import JSON_STYLE
from ..engine.tool_calls import END, SEPARATOR, head
from ..protocol.tools import FunctionDefinition

# More at once is a model that has lost its way.
MAX_CALLS = 16

_INSTRUCTIONS = """\
You have access to functions. If you decide to invoke any of the function(s),
you MUST put it in the format of
{"name": function name, "parameters": dictionary of argument name and its value}
"""
_SEVERAL = "If you need several calls, put each on a line of its own.\n"
_NOTHING_ELSE = "You SHOULD NOT include any other text in the response if you call a function\n"
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
# What an answer by a schema must not have, because a call has it.
_IS_NO_CALL: dict[str, Any] = {"properties": {"parameters": False}}
# Beside these, what a schema lists is not all there is.
_ADD_PROPERTIES = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
# Told from a call by its first character: an answer in text begins with none that JSON, or a fence around it,
# could begin with.
_FREE_TEXT = r"/[^{\[`\s](.|\n)*/"


def instructions(functions: Sequence[FunctionDefinition], *, parallel: bool) -> str:
    """Returns what the model is told of the functions; nothing where there are none."""
    if not functions:
        return ""
    known = json.dumps([_described(function) for function in functions], ensure_ascii=False, indent=1)
    return _INSTRUCTIONS + (_SEVERAL if parallel else "") + _NOTHING_ELSE + known


def call_text(name: str, arguments: str) -> str:
    """Returns a call as the model writes it, whoever wrote its arguments and how."""
    return f"{head(name)}{_written_anew(arguments)}{END}"


def result_text(name: str, result: str) -> str:
    """Returns what a function returned, as the model reads it."""
    return f"```tool_output\n{name}: {result}\n```"


def grammar(
    functions: Sequence[FunctionDefinition], *, must_call: bool, parallel: bool, answer: dict[str, Any] | None
) -> str:
    """Returns the form of an answer, in Lark: calls, or unless it ``must_call`` a text.

    ``answer`` is the schema of that text, if it has one; an object by it cannot have ``parameters``, by which
    it would be taken for a call. What llguidance does not know of a schema, a function that is not ``strict``
    goes without.
    """
    text = _FREE_TEXT if answer is None else _json({"allOf": [{"$id": "urn:answer"} | answer, _IS_NO_CALL]})
    more = f" ({json.dumps(SEPARATOR)} call){{0,{MAX_CALLS - 1}}}" if parallel else ""
    return "\n".join(
        [
            "start: calls" if must_call else "start: calls | text",
            f"calls: call{more}",
            "call: " + " | ".join(f"call_{index}" for index in range(len(functions))),
            *(_call_rule(index, function) for index, function in enumerate(functions)),
            *([] if must_call else [f"text: {text}"]),
        ]
    )


def parameters(function: FunctionDefinition) -> dict[str, Any]:
    """Returns the schema of a function's arguments; where it lists them, there are no others."""
    schema = function.parameters or _NO_PARAMETERS
    is_list = "properties" in schema and not schema.keys() & _ADD_PROPERTIES
    return {"type": "object"} | ({"additionalProperties": False} if is_list else {}) | schema


def _written_anew(arguments: str) -> str:
    try:
        known = from_json(arguments) if arguments.strip() else {}
    except ValueError:
        known = arguments  # a string in JSON, whatever it holds
    return json.dumps(known, ensure_ascii=False)


def _described(function: FunctionDefinition) -> dict[str, Any]:
    description = {} if function.description is None else {"description": function.description}
    return {"name": function.name} | description | {"parameters": function.parameters or _NO_PARAMETERS}


def _call_rule(index: int, function: FunctionDefinition) -> str:
    # As one object, not as literals around one: an answer by a schema may begin with the same characters.
    # With an id of their own, so that what the parameters refer to is looked for among themselves.
    arguments = {"$id": "urn:parameters"} | parameters(function)
    properties = {"name": {"const": function.name}, "parameters": arguments}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
    return f"call_{index}: {_json(schema, is_lenient=function.strict is not True)}"


def _json(schema: dict[str, Any], *, is_lenient: bool = False) -> str:
    options = JSON_STYLE | ({"lenient": True} if is_lenient else {})
    return "%json " + json.dumps(schema | {"x-guidance": options}, ensure_ascii=False)
