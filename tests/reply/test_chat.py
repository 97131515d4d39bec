import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest

from gemma3n_appliance.engine.events import Event, Finished, FinishReason, Started, TextDelta
from gemma3n_appliance.errors import EngineError
from gemma3n_appliance.reply.chat import Reply, chunks, complete

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


async def told(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def reply() -> Reply:
    return Reply("gemma3n", num_image_tokens=256, num_audio_tokens=188)


def streamed(events=EVENTS, *, include_usage: bool = False) -> list[dict]:
    async def collect():
        stream = chunks(told(events), reply(), include_usage=include_usage)
        return [json.loads(chunk.to_json()) async for chunk in stream]

    return asyncio.run(collect())


def plain(events=EVENTS) -> dict:
    return json.loads(asyncio.run(complete(told(events), reply())).to_json())


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
    *others, last = streamed(include_usage=True)
    assert all(chunk["usage"] is None for chunk in others)
    assert (last["choices"], last["usage"]) == ([], USAGE)


@pytest.mark.parametrize("reason", FinishReason)
@pytest.mark.parametrize("texts", [(), ("a",), ("a", "b\n", "c")])
def test_a_plain_reply_is_the_fold_of_the_stream(texts, reason):
    deltas = (TextDelta(text, i + 1) for i, text in enumerate(texts))
    events = (Started(3), *deltas, Finished(reason, len(texts) + 1))
    answer, stream = plain(events), streamed(events, include_usage=True)
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
        stream = chunks(events(), reply(), include_usage=False)
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    assert closed == [True]
