import asyncio
import json

import pytest

from gemma3n_appliance.engine.events import Finished, FinishReason, ScoredToken, Started, TextDelta
from gemma3n_appliance.errors import EngineError
from gemma3n_appliance.reply.completion import CompletionReply
from gemma3n_appliance.reply.told import chunks

from .conftest import told, whole


def scored(piece: bytes) -> ScoredToken:
    return ScoredToken(piece.decode(errors="replace"), piece, -0.5)


# Two prompts with two choices each, as they come mixed; the second text has a character in two tokens.
EVENTS = [
    Started(3, 1, choice=0),
    Started(5, 2, choice=2),
    TextDelta("a", 1, (scored(b"a"),), choice=0),
    Started(3, 3, choice=1),
    Started(5, 5, choice=3),
    TextDelta("é", 2, (scored(b"\xc3"), scored(b"\xa9")), choice=2),
    TextDelta("b", 2, (scored(b"b"),), choice=0),
    TextDelta("c", 3, (scored(b"c"),), choice=2),
    Finished(FinishReason.STOP, 3, choice=0),
    Finished(FinishReason.LENGTH, 3, choice=2),
    Finished(FinishReason.STOP, 1, choice=1),
    Finished(FinishReason.STOP, 1, choice=3),
]
USAGE = {
    "prompt_tokens": 8,
    "completion_tokens": 8,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0, "image_tokens": 0},
}


def reply(**fields) -> CompletionReply:
    return CompletionReply("m", num_prompts=2, num_choices=2, has_logprobs=True, **fields)


def plain(**fields) -> dict:
    return whole(reply(**fields), EVENTS)


def streamed(**fields) -> list[dict]:
    async def collect():
        return [json.loads(chunk.to_json()) async for chunk in chunks(told(EVENTS), reply(**fields))]

    return asyncio.run(collect())


def test_each_prompt_has_its_choices_and_is_counted_once():
    answer = plain()
    assert answer["usage"] == USAGE
    assert [(x["index"], x["text"], x["finish_reason"]) for x in answer["choices"]] == [
        (0, "ab", "stop"),
        (1, "", "stop"),
        (2, "éc", "length"),
        (3, "", "stop"),
    ]
    assert answer["choices"][1]["logprobs"]["tokens"] == []


@pytest.mark.parametrize(("echoes", "begin"), [((), 0), (("", "prompt: "), 8)])
def test_offsets_count_characters_whatever_tokens_they_come_in(echoes, begin):
    expected = [begin, begin, begin + 1]
    assert plain(echoes=echoes)["choices"][2]["logprobs"]["text_offset"] == expected
    said = [x["choices"][0] for x in streamed(echoes=echoes)]
    offsets = [x["logprobs"]["text_offset"] for x in said if x["index"] == 2 and x["logprobs"]]
    assert [offset for each in offsets for offset in each] == expected


def test_a_stream_says_nothing_of_beginnings_but_an_echo():
    assert len(streamed()) == 8
    echoed = streamed(echoes=("one", "two"))
    assert [x["choices"][0]["text"] for x in echoed[:2]] == ["one", "two"]
    assert len(echoed) == 12
    assert all("usage" not in x for x in echoed)


def test_a_stream_ends_with_the_usage_that_was_asked_for():
    *said, last = streamed(has_usage=True)
    assert {x["usage"] for x in said} == {None}
    assert last["choices"] == []
    assert last["usage"] == USAGE


def test_an_answer_without_its_end_is_an_error():
    with pytest.raises(EngineError):
        whole(reply(), EVENTS[:-1])


def test_parts_of_characters_have_names_of_their_own_and_the_first_of_a_name_counts():
    top = (ScoredToken("\ufffd", b"\xc3", -1.0), ScoredToken("\ufffd", b"\xa9", -2.0))
    events = [
        Started(1),
        TextDelta("é", 2, (ScoredToken("\ufffd", b"\xc3", -1.0, top), scored(b"\xa9")), choice=0),
        TextDelta("a", 3, (ScoredToken("a", b"a", -3.0, (ScoredToken("a", b"a", -4.0),)),), choice=0),
        Finished(FinishReason.STOP, 4),
    ]
    logprobs = whole(CompletionReply("m", has_logprobs=True), events)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xa9", "a"]
    assert logprobs["top_logprobs"][0] == {"bytes:\\xc3": -1.0, "bytes:\\xa9": -2.0}
    assert logprobs["top_logprobs"][2] == {"a": -3.0}
