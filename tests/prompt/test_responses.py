"""Items as a chat's messages, and errors about these as errors about the items."""

import json
from typing import Any

import pytest

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.prompt.responses import ResponsesChat
from gemma3n_appliance.protocol.responses_request import ResponsesRequest
from gemma3n_appliance.protocol.wire import parse

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REASONING = {"type": "reasoning", "id": "r", "summary": []}


def chat(**fields: Any) -> ResponsesChat:
    return ResponsesChat(parse(json.dumps({"model": "m", **fields}).encode(), ResponsesRequest))


def test_calls_in_a_row_are_one_message_s_and_many_are_several():
    body = chat(input=[*[CALL] * 129, REASONING, CALL, {"role": "user", "content": "Hi"}]).body
    assert [len(message.tool_calls or ()) for message in body.messages] == [128, 2, 0]


def test_an_error_names_the_item_that_a_message_comes_from():
    asked = chat(instructions="Be kind.", input=[REASONING, CALL, CALL, {"role": "user", "content": "Hi"}])
    error = InvalidRequestError("'messages[2].content' and 'max_tokens'.", param="messages[2].content")
    reworded = asked.reworded(error)
    assert reworded.param == "input[3].content"
    assert reworded.message == "'input[3].content' and 'max_output_tokens'."
    assert asked.reworded(InvalidRequestError("x", param="messages[0]")).param == "instructions"
    assert asked.reworded(InvalidRequestError("x", param="messages[1]")).param == "input[1]"
    assert asked.reworded(InvalidRequestError("x", param="messages")).param == "input"
    assert error.param == "messages[2].content"


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
    assert "messages" not in refused.value.message


def test_an_empty_list_of_parts_says_nothing():
    (message,) = chat(input=[{"role": "user", "content": []}]).body.messages
    assert message.content == ""
