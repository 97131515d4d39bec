import json
import tracemalloc
from typing import Any

import pytest

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.wire import parse

HELLO = {"role": "user", "content": "Hello"}


def read(**fields: Any) -> ChatCompletionRequest:
    return read_raw(json.dumps({"model": "gemma3n", "messages": [HELLO]} | fields).encode())


def read_raw(raw: bytes) -> ChatCompletionRequest:
    return parse(raw, ChatCompletionRequest)


def parts(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(contents)}]


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | fields}


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [HELLO, "Hello"]}, "messages[1]"),
    ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "Hello"}]}, "messages[0].role"),
    ({"messages": [HELLO, {"role": "user", "content": 5}]}, "messages[1].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": parts()}, "messages[0].content"),
    ({"messages": parts("Hello")}, "messages[0].content[0]"),
    ({"messages": parts({"type": "video_url"})}, "messages[0].content[0]"),
    ({"messages": parts({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": parts({"type": "text", "text": 1})}, "messages[0].content[0].text"),
    ({"messages": parts({"type": "image_url", "image_url": 1})}, "messages[0].content[0].image_url"),
    ({"messages": parts({"type": "image_url", "image_url": {}})}, "messages[0].content[0].image_url.url"),
    (
        {"messages": parts({"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}})},
        "messages[0].content[0].input_audio.format",
    ),
    (
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "data:,"}]}]},
        "messages[0].content[0]",
    ),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": -1}, "min_p"),
    ({"seed": True}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"stop": 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"metadata": "x"}, "metadata"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": True}, "n"),
    ({"frequency_penalty": 2.5}, "frequency_penalty"),
    ({"presence_penalty": "0.1"}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"5": None}}, "logit_bias.5"),
    ({"logit_bias": {"cat": 1}}, "logit_bias.cat"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"05": 1}}, "logit_bias.05"),
    ({"logit_bias": dict.fromkeys(map(str, range(1_025)), 1)}, "logit_bias"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ({"structured_outputs": "json"}, "structured_outputs"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "structured_outputs"),
    ({"structured_outputs": {"json": {}}, "response_format": {"type": "json_object"}}, "structured_outputs"),
    ({"structured_outputs": {"json_object": True}, "ignore_eos": True}, "ignore_eos"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
    ({"tools": [tool("a b")]}, "tools[0].function.name"),
    ({"tools": [tool("a", parameters=[])]}, "tools[0].function.parameters"),
    ({"tools": [tool("a", parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
    ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools[2].function.name"),
    ({"tools": [tool(f"t{i}") for i in range(129)]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "maybe", "tools": [tool("a")]}, "tool_choice"),
    ({"tool_choice": 5, "tools": [tool("a")]}, "tool_choice"),
    ({"tool_choice": {"type": "function"}, "tools": [tool("a")]}, "tool_choice.function"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [tool("a")]}, "tool_choice.type"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "b"}}, "tools": [tool("a")]},
        "tool_choice.function.name",
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"tools": [tool("a")], "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"tools": [tool("a")], "ignore_eos": True}, "ignore_eos"),
    ({"messages": [HELLO, {"role": "tool", "content": "5"}]}, "messages[1].tool_call_id"),
    ({"messages": [HELLO | {"tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "tool", "tool_call_id": "call_1"}]}, "messages[0].content"),
    ({"messages": [HELLO | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
]


@pytest.mark.parametrize(("fields", "param"), INVALID, ids=[str(case[0])[:70] for case in INVALID])
def test_a_value_that_cannot_be_is_refused_by_its_path(fields: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as refused:
        read(**fields)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, None, param)


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"functions": [{}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy"}}, "audio"),
    ({"prediction": {"type": "content"}}, "prediction"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag"),
    (
        {"structured_outputs": {"json": {}, "whitespace_pattern": "x"}},
        "structured_outputs.whitespace_pattern",
    ),
    ({"bad_words": ["a"]}, "bad_words"),
    ({"best_of": 2}, "best_of"),
    ({"echo": True}, "echo"),
    ({"grammar": "root ::= 'a'"}, "grammar"),
    ({"guided_choice": ["a"]}, "guided_choice"),
    ({"guided_grammar": "a"}, "guided_grammar"),
    ({"guided_json": {}}, "guided_json"),
    ({"guided_regex": "a"}, "guided_regex"),
    ({"length_penalty": 0.5}, "length_penalty"),
    ({"logits_processors": ["a"]}, "logits_processors"),
    ({"min_tokens": 1}, "min_tokens"),
    ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ({"stop_token_ids": [1]}, "stop_token_ids"),
    ({"use_beam_search": True}, "use_beam_search"),
    (
        {"messages": [HELLO, {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}]},
        "messages[1].audio",
    ),
]


@pytest.mark.parametrize(("fields", "param"), UNSUPPORTED, ids=[case[1] for case in UNSUPPORTED])
def test_what_is_not_there_yet_is_named_rather_than_ignored(fields: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as refused:
        read(**fields)
    assert (refused.value.status, refused.value.code) == (400, "unsupported_parameter")
    assert refused.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0},
        {"logit_bias": {}, "logprobs": False, "top_logprobs": 0, "response_format": {"type": "text"}},
        {
            "tools": [tool("a")],
            "structured_outputs": {"regex": "a"},
            "tool_choice": "none",
            "ignore_eos": None,
        },
        {"tools": [tool("a", strict=True)], "response_format": {"type": "json_object"}},
        {
            "messages": [
                HELLO,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "5"}]},
            ]
        },
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
        {"n": None, "tools": None, "stop": None, "stream_options": None, "temperature": None},
        {"bad_words": [], "best_of": 1, "echo": False, "grammar": "", "guided_json": None, "min_tokens": 0},
        {"length_penalty": 1.0, "stop_token_ids": [], "use_beam_search": False, "logits_processors": []},
        {"messages": [{"role": "user", "content": "x", "audio": None, "tool_call_id": None, "name": "n"}]},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"safety_identifier": "s", "prompt_cache_key": "k", "stop": [], "top_k": -1, "seed": -1},
        {"a_field_of_next_month": {"x": 1}},
        {"structured_outputs": {"json_object": False, "structural_tag": None}, "ignore_eos": True},
        {"response_format": {"type": "json_object"}, "structured_outputs": {}},
        {"max_tokens": 5, "max_completion_tokens": 5, "temperature": 1, "top_p": 0},
        {"messages": [{"role": "developer", "content": "x"}, {"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_neutral_values_and_known_extras_are_accepted(fields: dict[str, Any]):
    read(**fields)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": "m", "messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model": ' + b"9" * 10_000 + b"}",
    ],
    ids=[
        "empty",
        "cut off",
        "array",
        "null",
        "string",
        "bad utf-8",
        "lone surrogate",
        "deep",
        "huge number",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(raw: bytes):
    with pytest.raises(InvalidRequestError) as refused:
        read_raw(raw)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": [HELLO] * 200_000}, "messages", "at most 10000 items"),
        (
            {"messages": parts(*[{"type": "text", "text": ""}] * 200_000)},
            "messages[0].content",
            "at most 1000 items",
        ),
    ],
    ids=["messages", "parts"],
)
def test_more_messages_or_parts_than_anyone_needs_are_refused(fields: dict[str, Any], param: str, said: str):
    with pytest.raises(InvalidRequestError, match=said) as refused:
        read(**fields)
    assert refused.value.param == param


def test_ten_thousand_messages_and_a_thousand_parts_are_taken():
    many_parts = parts(*[{"type": "text", "text": ""}] * 1_000)
    assert len(read(messages=[HELLO] * 9_999 + many_parts).messages) == 10_000


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": [1] * 50_000},
        {"logit_bias": {str(i): "x" for i in range(50_000)}},
        {"guided_choice": [1] * 50_000},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_what_is_refused_as_a_whole_is_not_looked_at_item_by_item(fields: dict[str, Any]):
    raw = json.dumps({"model": "gemma3n", "messages": [HELLO]} | fields).encode()
    tracemalloc.start()
    with pytest.raises(InvalidRequestError) as refused:
        read_raw(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.param == next(iter(fields))
    assert peak < 12 * len(raw) + 2**20


def test_one_fault_among_many_messages_is_found_without_listing_the_rest():
    with pytest.raises(InvalidRequestError) as refused:
        read(messages=[{"role": "wizard"}] * 100_000)
    assert refused.value.param == "messages[0].role"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [HELLO | {"role": "assistant", "tool_calls": [0] * 1_000_000}]},
        {"tools": [0] * 1_000_000},
        {"structured_outputs": {"choice": [0] * 1_000_000}},
    ],
    ids=["tool_calls", "tools", "choice"],
)
def test_a_million_faults_are_not_looked_at_one_by_one(fields: dict[str, Any]):
    raw = json.dumps({"model": "m", "messages": [HELLO]} | fields).encode()
    tracemalloc.start()
    with pytest.raises(InvalidRequestError):
        parse(raw, ChatCompletionRequest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20
