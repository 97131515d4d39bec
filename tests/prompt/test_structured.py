"""What a request wants its answer to be, and what it hears where that cannot be kept to."""

import json
from typing import Any

import pytest

from gemma3n_appliance.engine.grammar import Guide, wait_for_any
from gemma3n_appliance.errors import GrammarError
from gemma3n_appliance.prompt import structured
from gemma3n_appliance.prompt.prompts import Prompts
from gemma3n_appliance.prompt.structured import MAX_CHARACTERS, MAX_GRAMMAR_CHARACTERS
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.wire import parse
from tests.fakes import checkpoint

from .conftest import model

PIECES = checkpoint.pieces()


def grammar_of(prompts: Prompts, **fields: Any):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    request = parse(json.dumps(body).encode(), ChatCompletionRequest)
    return prompts.for_chat(request, model(), "r").request.grammar


def by_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}


def known(guide: Guide) -> bytes:
    """What may come next, once it is known."""
    wait_for_any([guide], 20)
    mask = guide.allowed()
    assert mask is not None
    return mask


def accepts(grammar: Any, text: str) -> bool:
    guide = grammar.begin()
    for character in text:
        token_id = PIECES.index(character.encode())
        mask = known(guide)
        if not mask[token_id // 8] >> (token_id % 8) & 1:
            return False
        guide.accept(token_id)
    end = checkpoint.tokenizer().token_to_id("<end_of_turn>")
    return bool(known(guide)[end // 8] >> (end % 8) & 1)


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"response_format": {"type": "json_object"}}, '{"a": 1}', "[1]"),
        ({"response_format": by_schema({"type": "integer"})}, "12", "1.5"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, '{"a": 1}', "1"),
        ({"response_format": by_schema({})}, "[null]", "x"),
        ({"structured_outputs": {"json": {"type": "integer"}}}, "12", "x"),
        ({"structured_outputs": {"json": '{"type": "integer"}'}}, "12", "x"),
        ({"structured_outputs": {"json_object": True}}, "{}", "12"),
        ({"structured_outputs": {"choice": ["one", "two"]}}, "two", "three"),
        ({"structured_outputs": {"regex": "[ab]+"}}, "abba", "c"),
        ({"structured_outputs": {"grammar": 'root ::= "a" root "b" | "-"'}}, "aa-bb", "a-bb"),
    ],
)
def test_an_answer_is_held_to_what_the_request_says(
    prompts: Prompts, fields: dict[str, Any], right: str, wrong: str
):
    grammar = grammar_of(prompts, **fields)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json": None}},
    ],
)
def test_without_a_form_an_answer_is_free(prompts: Prompts, fields: dict[str, Any]):
    assert grammar_of(prompts, **fields) is None


DEEP = {
    "type": "object",
    "properties": {
        "fine": {"type": "string"},
        "list": {
            "type": "array",
            "items": {"anyOf": [{"type": "null"}, {"type": "array", "uniqueItems": True}]},
        },
    },
}
SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("schema", "place", "complaint"),
    [
        (DEEP, ".properties.list.items.anyOf[1]", "uniqueItems"),
        ({"not": {}}, "", "not"),
        ({"$defs": {"x": {"if": {}}}, "$ref": "#/$defs/x"}, ".$defs.x", "if"),
        ({"type": "object", "additionalProperties": {"type": "thing"}}, ".additionalProperties", "thing"),
        ({"prefixItems": [{}, {"contains": {}}]}, ".prefixItems[1]", "contains"),
        ({"properties": {"a": {"type": "string", "pattern": "(?!x)"}}}, ".properties.a", "look-a"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, ".properties.a", "nowhere"),
        ({"type": "string", "format": "colour"}, "", "colour"),
    ],
)
def test_what_cannot_be_kept_to_is_named_by_its_path(
    prompts: Prompts, schema: Any, place: str, complaint: str
):
    with pytest.raises(GrammarError, match=complaint) as refused:
        grammar_of(prompts, response_format=by_schema(schema))
    assert refused.value.param == SCHEMA + place
    assert SCHEMA + place in refused.value.message


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"regex": "("}, "structured_outputs.regex"),
        ({"grammar": "nonsense"}, "structured_outputs.grammar"),
        ({"json": "{"}, "structured_outputs.json"),
        ({"json": "[1]"}, "structured_outputs.json"),
        ({"json": {"properties": {"a": {"not": {}}}}}, "structured_outputs.json.properties.a"),
        ({"regex": "a" * (MAX_CHARACTERS + 1)}, "structured_outputs.regex"),
        ({"json": "{" + " " * MAX_CHARACTERS + "}"}, "structured_outputs.json"),
        ({"grammar": "# a" * MAX_GRAMMAR_CHARACTERS + '\nroot ::= "a"'}, "structured_outputs.grammar"),
    ],
)
def test_forms_of_vllm_s_are_named_as_they_were_sent(prompts: Prompts, form: dict[str, Any], param: str):
    with pytest.raises(GrammarError) as refused:
        grammar_of(prompts, structured_outputs=form)
    assert (refused.value.status, refused.value.code) == (400, "invalid_grammar")
    assert refused.value.param == param
    assert len(refused.value.message) < 600


def test_a_schema_cannot_ask_that_its_words_be_passed_over(prompts: Prompts):
    with pytest.raises(GrammarError, match="contains"):
        grammar_of(
            prompts,
            response_format=by_schema({"contains": {"type": "null"}, "x-guidance": {"lenient": True}}),
        )


def test_the_path_to_a_fault_is_not_endless(prompts: Prompts):
    with pytest.raises(GrammarError, match="contains") as refused:
        grammar_of(prompts, response_format=by_schema({"properties": {"a" * 9_000: {"contains": {}}}}))
    assert len(refused.value.param) < 300
    assert len(refused.value.message) < 600


def test_the_search_for_a_fault_is_not_endless(prompts: Prompts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(structured, "_SEARCH_S", 0.02)
    many = {f"p{i}": {"type": "string"} for i in range(3_000)}
    with pytest.raises(GrammarError, match="contains") as refused:
        grammar_of(prompts, response_format=by_schema({"properties": many | {"last": {"contains": {}}}}))
    assert refused.value.param == SCHEMA
