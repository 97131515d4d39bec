"""Items as a chat's messages, and errors about these as errors about the items."""

import json
from typing import Any

import pytest

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.protocol.responses_chat import ResponsesChat
from gemma3n_appliance.protocol.responses_request import ResponsesRequest
from gemma3n_appliance.protocol.wire import parse

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REASONING = {"type": "reasoning", "id": "r", "summary": []}


def chat(**fields: Any) -> ResponsesChat:
    return parse(json.dumps({"model": "m", **fields}).encode(), ResponsesRequest).chat


def test_calls_in_a_row_are_one_message_s_and_many_are_several():
    body = chat(input=[*[CALL] * 129, REASONING, CALL, {"role": "user", "content": "Hi"}]).body
    assert [len(message.tool_calls or ()) for message in body.messages] == [128, 2, 0]


def test_an_error_names_the_item_that_a_message_comes_from():
    asked = chat(instructions="Be kind.", input=[REASONING, CALL, CALL, {"role": "user", "content": "Hi"}])
    error = InvalidRequestError("'messages[2].content' is wrong.", param="messages[2].content")
    reworded = asked.reworded(error)
    assert reworded.param == "input[3].content"
    assert reworded.message == "'input[3].content' is wrong."
    assert error.param == "messages[2].content"


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages", "input"),
        ("messages[0].content", "instructions"),
        ("messages[1]", "input[1]"),
        ("messages[1].tool_calls[0].function.name", "input[1].name"),
        ("messages[1].tool_calls[1].id", "input[2].call_id"),
        ("messages[2].content[1].image_url", "input[3].output[1].image_url"),
        ("messages[3].content[0].input_audio", "input[4].content[0].input_audio"),
        ("messages[9]", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format.json_schema.schema.properties.messages", "text.format.schema.properties.messages"),
        ("response_format", "text.format"),
        ("tools[0].function.parameters.properties.max_tokens", "tools[0].parameters.properties.max_tokens"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("top_k", "top_k"),
    ],
)
def test_paths_within_a_chat_are_paths_within_the_request(param: str, expected: str):
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    asked = chat(
        instructions="Be kind.", input=[REASONING, CALL, CALL, output, {"role": "user", "content": "Hi"}]
    )
    assert asked.reworded(InvalidRequestError("x", param=param)).param == expected


def test_a_client_s_own_names_stay_as_they_are():
    tool = {"type": "function", "name": "messages"}
    with pytest.raises(InvalidRequestError) as refused:
        chat(input="Hi", tools=[tool, tool])
    assert refused.value.message == "There are two functions 'messages'."
    assert refused.value.param == "tools[1].name"


def test_how_to_sample_is_the_chat_s_too():
    fields = {"seed": 5, "stop": ["x"], "top_k": 3, "logit_bias": {"7": 1.0}, "presence_penalty": 0.5}
    body = chat(input="Hi", **fields, structured_outputs={"choice": ["a"]}).body
    assert {name: getattr(body, name) for name in fields} == fields
    assert body.structured_outputs.choice == ["a"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [REASONING]}, "input"),
        ({"instructions": "Hi", "input": [{"role": "user", "content": "Hi"}] * 10_000}, "input"),
        (
            {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
    ],
    ids=["nothing said", "too much said", "a picture of the system's"],
)
def test_what_is_no_chat_is_refused(fields: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as refused:
        chat(**fields)
    assert refused.value.param == param
    assert "messages[" not in refused.value.message


def test_an_empty_list_of_parts_says_nothing():
    (message,) = chat(input=[{"role": "user", "content": []}]).body.messages
    assert message.content == ""
