import asyncio
import json

import pytest

from gemma3n_appliance.engine.events import (
    CallDelta,
    Finished,
    FinishReason,
    ScoredToken,
    Started,
    TextDelta,
)
from gemma3n_appliance.errors import EngineError
from gemma3n_appliance.reply.chat import ChatReply
from gemma3n_appliance.reply.told import chunks

from .conftest import told, whole

EVENTS = (
    Started(7, 2),
    TextDelta("Hel", 1),
    TextDelta("lo 😀", 3),
    Finished(FinishReason.LENGTH, 4),
)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 188, "image_tokens": 256},
}


def reply(**fields: object) -> ChatReply:
    return ChatReply("gemma3n", num_image_tokens=256, num_audio_tokens=188, **fields)


def streamed(events=EVENTS, **fields: object) -> list[dict]:
    async def collect():
        stream = chunks(told(events), reply(**fields))
        return [json.loads(chunk.to_json()) async for chunk in stream]

    return asyncio.run(collect())


def plain(events=EVENTS, **fields: object) -> dict:
    return whole(reply(**fields), events)


def test_a_plain_reply_is_what_openai_would_send():
    answer = plain()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer.pop("system_fingerprint")
    assert answer == {
        "object": "chat.completion",
        "model": "gemma3n",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello 😀", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE,
    }


def test_a_stream_begins_with_the_role_and_ends_with_one_finish_reason():
    choices = [chunk["choices"][0] for chunk in streamed()]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo 😀"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]


def test_all_chunks_of_a_stream_share_what_identifies_them():
    common = {(c["id"], c["created"], c["model"], c["object"], c["system_fingerprint"]) for c in streamed()}
    assert len(common) == 1


def test_usage_comes_last_and_alone_and_only_if_asked_for():
    assert all("usage" not in chunk for chunk in streamed())
    *others, last = streamed(has_usage=True)
    assert all(chunk["usage"] is None for chunk in others)
    assert (last["choices"], last["usage"]) == ([], USAGE)


@pytest.mark.parametrize("reason", FinishReason)
@pytest.mark.parametrize("texts", [(), ("a",), ("a", "b\n", "c")])
def test_a_plain_reply_is_the_fold_of_the_stream(texts, reason):
    deltas = (TextDelta(text, i + 1) for i, text in enumerate(texts))
    events = (Started(3), *deltas, Finished(reason, len(texts) + 1))
    answer, stream = plain(events), streamed(events, has_usage=True)
    folded = "".join(choice["delta"].get("content", "") for chunk in stream for choice in chunk["choices"])
    assert answer["choices"][0]["message"]["content"] == folded
    assert answer["choices"][0]["finish_reason"] == stream[-2]["choices"][0]["finish_reason"] == reason.value
    assert answer["usage"] == stream[-1]["usage"]


def test_events_without_an_end_are_an_error():
    with pytest.raises(EngineError, match="before the answer was complete"):
        plain(EVENTS[:-1])


def test_leaving_a_stream_closes_the_events():
    closed = []

    async def events():
        try:
            for event in EVENTS:
                yield event
        finally:
            closed.append(True)

    async def leave():
        stream = chunks(events(), reply())
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    assert closed == [True]


TWO = (
    Started(7, 2),
    TextDelta("A", 1),
    Started(7, 6, choice=1),
    TextDelta("B", 1, choice=1),
    Finished(FinishReason.STOP, 2, choice=1),
    TextDelta("a", 2),
    Finished(FinishReason.LENGTH, 3),
)


def test_choices_come_mixed_and_are_told_apart_by_their_index():
    answer = plain(TWO, num_choices=2)
    told = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer["choices"]]
    assert told == [(0, "Aa", "length"), (1, "B", "stop")]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 5)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    *said, last = streamed(TWO, num_choices=2, has_usage=True)
    assert [chunk["choices"][0]["index"] for chunk in said] == [0, 0, 1, 1, 1, 0, 0]
    assert last["usage"] == answer["usage"]


def test_a_choice_without_an_end_is_an_error():
    with pytest.raises(EngineError, match="before the answer was complete"):
        plain(TWO[:-1], num_choices=2)


def test_usage_so_far_grows_with_the_answer():
    usages = [chunk["usage"] for chunk in streamed(has_usage=True, has_usage_so_far=True)]
    assert [usage["completion_tokens"] for usage in usages] == [0, 1, 3, 4, 4]
    assert all(usage["total_tokens"] == 7 + usage["completion_tokens"] for usage in usages)


def test_logprobs_are_written_as_openai_does():
    token = ScoredToken("\ufffd", b"\xf0", -0.5, (ScoredToken("<eos>", None, float("-inf")),))
    events = (Started(1), TextDelta("x", 1, (token,)), Finished(FinishReason.STOP, 2))
    wanted = {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -0.5,
                "bytes": [240],
                "top_logprobs": [{"token": "<eos>", "logprob": -9999.0, "bytes": None}],
            }
        ],
        "refusal": None,
    }
    assert plain(events, has_logprobs=True)["choices"][0]["logprobs"] == wanted
    chunks = streamed(events, has_logprobs=True)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [None, wanted, None]


CALLS = (
    Started(7, 2),
    CallDelta(0, 3, "call_a", "get"),
    CallDelta(0, 4, arguments='{"a":'),
    CallDelta(0, 5, arguments=" 1}"),
    CallDelta(1, 8, "call_b", "put"),
    CallDelta(1, 9, arguments="{}"),
    Finished(FinishReason.TOOL_CALLS, 10),
)


def test_calls_are_a_message_without_content():
    (choice,) = plain(CALLS)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}},
            {"id": "call_b", "type": "function", "function": {"name": "put", "arguments": "{}"}},
        ],
    }


def test_a_stream_names_a_call_first_and_then_tells_its_arguments():
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(CALLS, may_call=True)]
    named = {"id": "call_a", "type": "function", "function": {"name": "get", "arguments": ""}}
    assert deltas[0] == {"role": "assistant", "content": None}
    assert deltas[1] == {"tool_calls": [{"index": 0} | named]}
    assert deltas[2] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}
    assert deltas[4]["tool_calls"][0]["index"] == 1
    assert deltas[6] == {}


def test_a_text_beside_calls_stays():
    (choice,) = plain((CALLS[0], TextDelta("Wait.", 1), *CALLS[1:]))["choices"]
    assert choice["message"]["content"] == "Wait."
    assert len(choice["message"]["tool_calls"]) == 2
