import asyncio
import json

import pytest

from gemma3n_appliance.engine.events import CallDelta, Finished, FinishReason, Started, TextDelta
from gemma3n_appliance.errors import EngineError
from gemma3n_appliance.protocol.responses_reply import Response
from gemma3n_appliance.reply.responses import ResponsesReply
from gemma3n_appliance.reply.told import chunks

from .conftest import told, whole

CALLS = [
    Started(5, 1),
    CallDelta(0, 3, "call_a", "first"),
    CallDelta(0, 4, arguments='{"x"'),
    CallDelta(0, 5, arguments=": 1}"),
    CallDelta(1, 8, "call_b", "second"),
    CallDelta(1, 9, arguments="{"),
]


def begun():
    return Response(
        id="resp_1",
        created_at=1,
        status="in_progress",
        instructions=None,
        max_output_tokens=None,
        metadata={},
        model="m",
        output=[],
        parallel_tool_calls=True,
        temperature=1,
        text={},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        top_p=1,
        user=None,
    )


def streamed(events):
    async def collect():
        return [json.loads(chunk.to_json()) async for chunk in chunks(told(events), ResponsesReply(begun()))]

    return asyncio.run(collect())


def response_to(events):
    return whole(ResponsesReply(begun()), events)


def without_ids(response):
    return response | {
        "output": [{k: v for k, v in item.items() if k != "id"} for item in response["output"]]
    }


def test_each_call_is_an_item_that_ends_before_the_next_begins():
    events = streamed([*CALLS, CallDelta(1, 10, arguments="}"), Finished(FinishReason.TOOL_CALLS, 11)])
    assert [(e["type"].removeprefix("response."), e.get("output_index")) for e in events] == [
        ("created", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("function_call_arguments.delta", 0),
        ("function_call_arguments.delta", 0),
        ("function_call_arguments.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("function_call_arguments.delta", 1),
        ("function_call_arguments.delta", 1),
        ("function_call_arguments.done", 1),
        ("output_item.done", 1),
        ("completed", None),
    ]
    calls = events[-1]["response"]["output"]
    assert [(x["name"], x["call_id"], x["arguments"], x["status"]) for x in calls] == [
        ("first", "call_a", '{"x": 1}', "completed"),
        ("second", "call_b", "{}", "completed"),
    ]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == calls
    assert events[5]["item_id"] == calls[0]["id"] != calls[1]["id"]


def test_a_call_that_is_cut_off_is_incomplete_and_those_before_it_are_not():
    response = response_to([*CALLS, Finished(FinishReason.LENGTH, 9)])
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {
            "cached_tokens": 1,
            "cache_write_tokens": 0,
            "audio_tokens": 0,
            "image_tokens": 0,
        },
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    }


@pytest.mark.parametrize(
    "said", [[], [TextDelta("Hel", 1), TextDelta("lo 😀", 3)], CALLS[1:]], ids=["nothing", "text", "calls"]
)
def test_a_whole_response_is_what_the_last_event_of_its_stream_holds(said):
    events = [Started(5), *said, Finished(FinishReason.STOP, 9)]
    assert without_ids(response_to(events)) == without_ids(streamed(events)[-1]["response"])


def test_nothing_said_is_an_empty_message():
    (item,) = response_to([Started(5), Finished(FinishReason.STOP, 1)])["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_events_have_the_fields_of_their_kind_and_no_others():
    events = streamed([Started(5), TextDelta("Hi", 1), Finished(FinishReason.STOP, 2)])
    by_type = {event.pop("type").removeprefix("response."): event.keys() for event in events}
    place = {"sequence_number", "output_index", "content_index", "item_id"}
    assert by_type["output_text.delta"] == place | {"delta", "logprobs"}
    assert by_type["content_part.added"] == place | {"part"}
    assert by_type["output_item.added"] == {"sequence_number", "output_index", "item"}
    assert by_type["created"] == {"sequence_number", "response"}


def test_a_response_without_its_end_is_an_error():
    with pytest.raises(EngineError):
        response_to(CALLS)
