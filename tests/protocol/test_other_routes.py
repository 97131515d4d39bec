"""Nothing is silently ignored that another route would have done."""

import json
from typing import Any

import pytest

from gemma3n_appliance.errors import UnsupportedParameterError
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.completion_request import CompletionRequest
from gemma3n_appliance.protocol.other_routes import refuse_of_other_routes
from gemma3n_appliance.protocol.responses_request import ResponsesRequest
from gemma3n_appliance.protocol.wire import TextRequest, parse

CHAT = (ChatCompletionRequest, {"messages": [{"role": "user", "content": "Hi"}]})
TEXT = (CompletionRequest, {"prompt": "Hi"})
RESPONSE = (ResponsesRequest, {"input": "Hi"})


def send(to: tuple[type[TextRequest], dict[str, Any]], fields: dict[str, Any]) -> None:
    kind, body = to
    parse(json.dumps({"model": "m", **body, **fields}).encode(), kind, refuse_of_other_routes)


@pytest.mark.parametrize(
    ("to", "fields", "where"),
    [
        (CHAT, {"max_output_tokens": 5}, "/v1/responses"),
        (CHAT, {"input": "Hi"}, "/v1/responses"),
        (CHAT, {"suffix": "."}, "/v1/completions"),
        (CHAT, {"add_special_tokens": True}, "/v1/completions"),
        (TEXT, {"max_completion_tokens": 5}, "/v1/chat/completions"),
        (TEXT, {"top_logprobs": 5}, "/v1/chat/completions"),
        (TEXT, {"messages": [{"role": "user", "content": "Hi"}]}, "/v1/chat/completions"),
        (TEXT, {"tools": [{}]}, "/v1/chat/completions"),
        (RESPONSE, {"max_tokens": 5}, "/v1/chat/completions"),
        (RESPONSE, {"n": 2}, "/v1/chat/completions"),
        (RESPONSE, {"n": True}, "/v1/chat/completions"),
        (RESPONSE, {"logprobs": True}, "/v1/chat/completions"),
        (RESPONSE, {"response_format": {"type": "json_object"}}, "/v1/chat/completions"),
        (RESPONSE, {"echo": True}, "/v1/chat/completions"),
    ],
)
def test_what_another_route_would_do_is_refused(to: Any, fields: dict[str, Any], where: str):
    with pytest.raises(UnsupportedParameterError) as refused:
        send(to, fields)
    assert refused.value.param == next(iter(fields))
    assert where in refused.value.message


@pytest.mark.parametrize(
    ("to", "fields"),
    [
        (CHAT, {"input": None, "max_output_tokens": None, "truncation": "disabled", "suffix": ""}),
        (TEXT, {"tools": [], "tool_choice": "auto", "metadata": {"a": "b"}, "store": True}),
        (RESPONSE, {"best_of": 1, "reasoning_effort": "none"}),
        (CHAT, {"text": {"format": {"type": "text"}}, "reasoning": {"effort": "none"}}),
        (TEXT, {"top_logprobs": 0, "logprobs": 2, "later": 1}),
        (RESPONSE, {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "later": 1}),
    ],
)
def test_what_asks_for_nothing_is_not(to: Any, fields: dict[str, Any]):
    send(to, fields)
