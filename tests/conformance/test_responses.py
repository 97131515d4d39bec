"""Responses through the official client: whole, streamed, with calls, forms and media."""

import base64
import json
import random

import httpx2
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from PIL import Image

from gemma3n_appliance.demo import tones, wire

from .test_chat import LOGS, SENSOR, ask

LOGS_ANSWER = "The logs are in the journal: run journalctl -u gemma3n-api."
THERMOMETER = {
    "type": "function",
    "name": "get_temperature",
    "description": "Reads a sensor, in degrees Celsius.",
    "parameters": {"type": "object", "properties": {"sensor": SENSOR}, "required": ["sensor"]},
}
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


def respond(client, asked, **options):
    return client.responses.create(
        model="gemma3n", input=asked, **{"temperature": 0, "max_output_tokens": 120, **options}
    )


def raw_events(url, **body):
    """The events as they go over the wire, each by its name and strictly what the SDK's types say."""
    with httpx2.stream(
        "POST", f"{url}/v1/responses", json={"model": "gemma3n", "stream": True, **body}, timeout=60
    ) as reply:
        frames = "".join(reply.iter_text()).strip().split("\n\n")
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


def without_ids(response):
    """What two replies to one request have in common."""
    if isinstance(response, Response):
        response = response.model_dump()
    apart = {"id", "call_id", "created_at"}
    kept = {name: value for name, value in response.items() if name not in apart}
    kept["output"] = [{k: v for k, v in item.items() if k not in apart} for item in kept["output"]]
    kept["usage"] = {k: v for k, v in kept["usage"].items() if k != "input_tokens_details"}
    return kept


def test_a_question_is_answered_as_in_a_chat(client):
    known, reply = ask(client, LOGS), respond(client, "Where are the logs?")
    assert reply.output_text == LOGS_ANSWER
    assert (reply.object, reply.status, reply.model) == ("response", "completed", "gemma3n")
    assert reply.id.startswith("resp_")
    (item,) = reply.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert reply.usage.input_tokens == known.usage.prompt_tokens
    assert reply.usage.output_tokens == known.usage.completion_tokens
    assert reply.usage.total_tokens == known.usage.total_tokens
    assert (reply.temperature, reply.error, reply.incomplete_details) == (0, None, None)
    assert (reply.tools, reply.tool_choice, reply.parallel_tool_calls) == ([], "auto", True)


def test_a_stream_has_openai_s_events_in_openai_s_order(url, client):
    events = raw_events(url, input="Where are the logs?", temperature=0)
    kinds = [event["type"] for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(deltas) == events[-4]["text"] == LOGS_ANSWER
    items = {event.get("item_id") or event["item"]["id"] for event in events[2:-1]}
    assert items == {events[-1]["response"]["output"][0]["id"]}
    assert events[0]["response"] == events[1]["response"]
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    whole = respond(client, "Where are the logs?", max_output_tokens=None)
    assert without_ids(Response.model_validate(events[-1]["response"])) == without_ids(whole)


def test_the_client_s_own_accumulator_is_content(client):
    with client.responses.stream(model="gemma3n", input="Where are the logs?", temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == LOGS_ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off_says_so(client, stream):
    reply = respond(client, "Where are the logs?", max_output_tokens=3, stream=stream)
    if stream:
        *_, last = reply
        assert last.type == "response.incomplete"
        reply = last.response
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.output[0].status == "incomplete"
    assert reply.usage.output_tokens == 3


def test_what_was_said_before_comes_along(client):
    known = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ]
    assert respond(client, known).output_text == "Your name is Ada."
    first = respond(client, "My name is Ada.")
    asked = [
        {"role": "user", "content": "My name is Ada."},
        *first.output,
        {"type": "reasoning", "id": "r", "summary": []},
    ]
    asked.append(
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]}
    )
    assert respond(client, asked).output_text == "Your name is Ada."


def test_instructions_are_a_system_prompt(client):
    told = "Answer in capital letters."
    known = ask(client, [{"role": "system", "content": told}, *LOGS])
    reply = respond(client, "Where are the logs?", instructions=told)
    assert reply.output_text == known.choices[0].message.content
    assert reply.usage.input_tokens == known.usage.prompt_tokens
    assert reply.instructions == told
    by_item = respond(client, [{"role": "developer", "content": told}, *LOGS])
    assert by_item.output_text == reply.output_text


def test_pictures_and_sounds_are_seen_and_heard(client):
    def show(content, text):
        return respond(client, [{"role": "user", "content": [content, {"type": "input_text", "text": text}]}])

    picture = Image.new("RGB", (64, 64), "white")
    url = wire.image_part(picture)["image_url"]["url"]
    part = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": "What is this?"}
    known = ask(client, [{"role": "user", "content": [part, text]}])
    seen = show({"type": "input_image", "image_url": url, "detail": "auto"}, "What is this?")
    assert seen.output_text == known.choices[0].message.content
    assert seen.usage.input_tokens == known.usage.prompt_tokens
    silence = wire.audio_part(tones.make(random.Random(1), "silence"))
    heard = show(silence, "What do you hear?")
    assert heard.output_text == tones.ANSWERS["silence"]


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_form_is_kept_to(client, temperature):
    class Reading(pydantic.BaseModel):
        sensor: str = pydantic.Field(max_length=5)
        celsius: int = pydantic.Field(ge=0, le=99)

    reply = client.responses.parse(
        model="gemma3n", input="Hi", text_format=Reading, temperature=temperature, max_output_tokens=300
    )
    assert isinstance(reply.output_parsed, Reading)
    anything = respond(client, "Hi", text={"format": {"type": "text"}, "verbosity": "medium"})
    assert anything.output_text == respond(client, "Hi").output_text


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_temperature"}])
def test_a_call_and_its_result_go_around(url, client, choice):
    options = {"tools": [THERMOMETER], "tool_choice": choice, "temperature": 0}
    reply = respond(client, "How hot is the CPU?", **options, parallel_tool_calls=False)
    (call,) = reply.output
    assert (call.type, call.name, call.status) == ("function_call", "get_temperature", "completed")
    assert json.loads(call.arguments)["sensor"] in SENSOR["enum"]
    assert reply.output_text == ""
    assert reply.tools[0].name == "get_temperature"

    events = raw_events(url, input="How hot is the CPU?", **options, parallel_tool_calls=False)
    deltas = [e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"]
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * len(deltas),
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(deltas) == call.arguments
    assert events[2]["item"]["arguments"] == ""
    assert events[2]["item"]["call_id"] == events[-1]["response"]["output"][0]["call_id"]

    said = [{"role": "user", "content": "How hot is the CPU?"}, *reply.output]
    said.append({"type": "function_call_output", "call_id": call.call_id, "output": '{"celsius": 48}'})
    final = respond(client, said, tools=[THERMOMETER], tool_choice="none")
    chat = [
        {"role": "user", "content": "How hot is the CPU?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "c",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": '{"celsius": 48}'},
    ]
    assert final.usage.input_tokens == ask(client, chat).usage.prompt_tokens
    assert final.output[0].type == "message"


def test_calls_in_a_row_are_one_turn_of_calls(client):
    calls = [
        {
            "type": "function_call",
            "call_id": f"c{i}",
            "name": "get_temperature",
            "arguments": '{"sensor": "cpu"}',
        }
        for i in range(2)
    ]
    results = [{"type": "function_call_output", "call_id": f"c{i}", "output": "1"} for i in range(2)]
    reply = respond(client, [{"role": "user", "content": "Hi"}, *calls, *results], max_output_tokens=1)
    functions = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
    chat = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": f"c{i}", "type": "function", "function": x} for i, x in enumerate(functions)
            ],
        },
        *[{"role": "tool", "tool_call_id": f"c{i}", "content": "1"} for i in range(2)],
    ]
    assert reply.usage.input_tokens == ask(client, chat, max_tokens=1).usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_chat(client, stream):
    known = ask(client, LOGS, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    reply = respond(
        client,
        "Where are the logs?",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        stream=stream,
    )
    if stream:
        told = [
            token for event in reply if event.type == "response.output_text.delta" for token in event.logprobs
        ]
    else:
        told = reply.output[0].content[0].logprobs
    assert [token.token for token in told] == [token.token for token in known]
    # Asked again, most of the prompt is remembered, and sums come out in another order.
    assert [token.logprob for token in told] == pytest.approx([token.logprob for token in known], abs=1e-4)
    assert [len(token.top_logprobs) for token in told] == [2] * len(told)


BROKEN = base64.b64encode(b"no picture").decode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        (
            {
                "instructions": "Be kind.",
                "input": [
                    {"type": "reasoning", "id": "r", "summary": []},
                    {
                        "role": "user",
                        "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{BROKEN}"}],
                    },
                ],
            },
            "input[1].content[0].image_url",
        ),
        ({"input": "word " * 6_000}, "input"),
        ({"input": [{"type": "reasoning"}]}, "input"),
        ({"max_output_tokens": 5_000}, "max_output_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}"),
        ({"metadata": {f"{i}": "v" for i in range(17)}}, "metadata"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"min_tokens": 3}, "min_tokens"),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
                    },
                ]
            },
            "input[1].output[0].image_url",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {"properties": {"a": {"not": {}}}},
                    }
                }
            },
            "text.format.schema.properties.a",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [THERMOMETER | {"parameters": {"type": "array"}}]}, "tools[0].parameters.type"),
        (
            {"tools": [THERMOMETER | {"parameters": {"properties": {"a": {"not": {}}}}, "strict": True}]},
            "tools[0].parameters.properties.a",
        ),
        ({"tools": [THERMOMETER, THERMOMETER]}, "tools[1].name"),
        ({"tools": [THERMOMETER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_named_in_the_words_of_the_request(client, fields, param, stream):
    body = {"model": "gemma3n", "input": "Hi", "stream": stream} | fields
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/responses", body=body, cast_to=object)
    assert refused.value.param == param
    assert "messages" not in refused.value.message


def test_options_of_a_stream_need_a_stream(client):
    body = {"model": "gemma3n", "input": "Hi", "stream_options": {"include_obfuscation": False}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/responses", body=body, cast_to=object)
    assert refused.value.param == "stream_options"
    client.post("/responses", body=body | {"stream": True}, cast_to=str)


def test_a_seed_gives_the_same_text_as_in_a_chat(client):
    extra = {"seed": 3, "top_k": 0, "repetition_penalty": 1.1}
    said = [
        client.responses.create(
            model="gemma3n", input="Spell abacus.", temperature=2, max_output_tokens=20, extra_body=extra
        ).output_text
        for _ in range(2)
    ]
    chat = client.chat.completions.create(
        model="gemma3n",
        messages=[{"role": "user", "content": "Spell abacus."}],
        temperature=2,
        max_tokens=20,
        extra_body=extra,
    )
    assert said == [chat.choices[0].message.content] * 2


def test_another_model_is_not_there(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-5", input="Hi")
