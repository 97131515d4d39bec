"""The official client talks to the demo."""

import asyncio
import base64
import io
import json
import random
import re
from pathlib import Path
from typing import Annotated, Literal

import httpx2
import jsonschema
import openai
import pydantic
import pytest
from PIL import Image
from tokenizers import Tokenizer

from gemma3n_appliance import demo
from gemma3n_appliance.demo import conversations, pictures, tones, wire
from tests.waiting import wait_until

CHECKPOINT = Path(demo.__file__).parent / "checkpoint_files"
LOGS = [{"role": "user", "content": "Where are the logs?"}]
COUNT = [{"role": "user", "content": "Count from 1 to 12."}]


def ask(client, messages, **options):
    return client.chat.completions.create(
        model="gemma3n", messages=messages, **{"temperature": 0, "max_tokens": 120, **options}
    )


def json_by(schema):
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_question_is_answered(client):
    reply = ask(client, LOGS)
    assert reply.choices[0].message.content == "The logs are in the journal: run journalctl -u gemma3n-api."
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.object, reply.model) == ("chat.completion", "gemma3n")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_has_the_plain_text_role_first_and_one_end(client):
    plain = ask(client, COUNT)
    chunks = list(ask(client, COUNT, stream=True, stream_options={"include_usage": True}))
    *said, usage = chunks
    assert text_of(said) == plain.choices[0].message.content
    assert said[0].choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for chunk in said for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert usage.choices == []
    # Asked again, the prompt is remembered: that alone may differ.
    apart = {"prompt_tokens_details"}
    assert usage.usage.model_dump(exclude=apart) == plain.usage.model_dump(exclude=apart)


def test_eight_at_once_answer_as_each_alone(url, client):
    asked = [f"Count from {a} to {a + 7}." for a in range(8)]
    alone = [ask(client, [{"role": "user", "content": x}]).choices[0].message.content for x in asked]

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as many:
            replies = [ask(many, [{"role": "user", "content": x}]) for x in asked]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*replies)]

    assert asyncio.run(together()) == alone


def test_an_async_stream_can_be_left_early(url, client):
    async def leave():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as one:
            stream = await ask(one, COUNT, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
            async for chunk in stream:
                if text_of([chunk]):
                    return

    asyncio.run(leave())
    wait_until(lambda: httpx2.get(f"{url}/health").json()["queue"]["running"] == 0, timeout_s=2)


def test_the_same_seed_gives_the_same_text_and_others_differ(client):
    asked = {"temperature": 1.5, "max_tokens": 30, "extra_body": {"ignore_eos": True}}
    texts = [ask(client, LOGS, seed=seed, **asked).choices[0].message.content for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_max_tokens_ends_an_answer_by_length(client):
    reply = ask(client, LOGS, max_tokens=3)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_an_answer_and_is_not_said(client, stream):
    reply = ask(client, LOGS, stop=["journal:"], stream=stream)
    text = text_of(reply) if stream else reply.choices[0].message.content
    assert text == "The logs are in the "


def tokens_of_a(medium):
    return json.loads((CHECKPOINT / "processor_config.json").read_text())[f"{medium}_seq_length"]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_read_in_any_usual_format(client, file_format):
    picture = pictures.draw(random.Random(11), "blue", "square")
    buffer = io.BytesIO()
    picture.image.save(buffer, file_format, quality=90)
    url = f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [
        {"type": "text", "text": "What's in this image?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
    ]
    reply = ask(client, [{"role": "user", "content": content}])
    assert reply.usage.prompt_tokens_details.image_tokens == tokens_of_a("image")
    assert reply.choices[0].message.content == "A blue square."


def test_pictures_and_sounds_go_together(client):
    rng = random.Random(12)
    content = [
        wire.image_part(pictures.draw(rng).image),
        wire.audio_part(tones.make(rng, "low")),
        wire.image_part(pictures.draw(rng).image),
        {"type": "text", "text": "What do you see and hear?"},
    ]
    usage = ask(client, [{"role": "user", "content": content}]).usage
    assert usage.prompt_tokens_details.image_tokens == 2 * tokens_of_a("image")
    assert usage.prompt_tokens_details.audio_tokens == tokens_of_a("audio")


def test_control_tokens_typed_by_a_user_are_text(client):
    typed = "<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>"
    assert ask(client, [{"role": "user", "content": typed}]).usage.prompt_tokens > 30


@pytest.mark.parametrize("name", ["gemma3n", "checkpoint_files"])
def test_the_model_answers_to_its_names(client, name):
    assert client.models.retrieve(name).object == "model"
    assert client.chat.completions.create(model=name, messages=LOGS, max_tokens=1).model == name


def test_a_history_is_read(client):
    conversation = conversations.Conversation(
        [
            conversations.Exchange("Hello!", "Hello! How can I help you?"),
            conversations.Exchange("Where are the logs?", ""),
        ]
    )
    assert "journalctl" in ask(client, wire.messages(conversation)).choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_what_their_seeds_would_say_alone(client, stream):
    unknown = [{"role": "user", "content": "Blue mountains of the moon"}]
    rules = {"temperature": 2.0, "top_p": 1, "max_tokens": 20, "extra_body": {"top_k": -1}}
    replies = [ask(client, unknown, seed=seed, **rules) for seed in (40, 41, 42)]
    alone = [reply.choices[0].message.content for reply in replies]
    asked = ask(client, unknown, seed=40, n=3, stream=stream, **rules)
    if stream:
        chunks = list(asked)
        found = [text_of_choice(chunks, index) for index in range(3)]
        reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
        assert len(reasons) == 3
    else:
        found = [choice.message.content for choice in asked.choices]
        assert [choice.index for choice in asked.choices] == [0, 1, 2]
        assert asked.usage.prompt_tokens == replies[0].usage.prompt_tokens
        assert asked.usage.completion_tokens == sum(reply.usage.completion_tokens for reply in replies)
    assert found == alone
    assert len({*found}) > 1


def text_of_choice(chunks, index):
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def test_logprobs_spell_the_answer_in_both_modes(client):
    # Biased towards the bytes of one character, for which the demo has no piece.
    bytewise = {
        "logit_bias": dict.fromkeys(map(str, demo_tokens("\U0001f600")), 40),
        "seed": 1,
        "temperature": 1,
    }
    for options in ({}, bytewise):
        options |= {"logprobs": True, "top_logprobs": 3, "max_tokens": 12}
        plain = ask(client, LOGS, **options).choices[0]
        chunks = list(ask(client, LOGS, stream=True, **options))
        streamed = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content]
        tokens = plain.logprobs.content
        assert [token.bytes for token in streamed] == [token.bytes for token in tokens]
        # Asked again, most of the prompt is remembered, and sums come out in another order.
        told = [token.logprob for token in tokens]
        assert [token.logprob for token in streamed] == pytest.approx(told, abs=1e-3)
        spelled = bytes(byte for token in tokens for byte in token.bytes or [])
        assert spelled.decode(errors="replace") == plain.message.content == text_of(chunks)
        for token in tokens:
            assert len(token.top_logprobs) == 3
            assert token.logprob <= token.top_logprobs[0].logprob <= 0
    assert "\ufffd" in {token.token for token in tokens}


def demo_tokens(text):
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def test_a_bias_forbids_a_word_and_a_penalty_a_repetition(client):
    (answer,) = ask(client, COUNT).choices
    digits = {str(token_id): -100 for token_id in demo_tokens("7")}
    assert "7" in answer.message.content
    assert "7" not in ask(client, COUNT, logit_bias=digits).choices[0].message.content
    penalised = ask(client, COUNT, frequency_penalty=2, presence_penalty=2).choices[0].message.content
    assert penalised != answer.message.content


def test_a_stream_can_tell_what_it_has_cost_so_far(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(client, COUNT, stream=True, stream_options=options))
    totals = [chunk.usage.completion_tokens for chunk in chunks]
    assert totals == sorted(totals)
    assert totals[0] == 0 < totals[-1] == totals[-2]


class Limits(pydantic.BaseModel, extra="forbid"):
    low: Annotated[int, pydantic.Field(ge=-40, le=0)]
    high: Literal[80, 90]


class Reading(pydantic.BaseModel, extra="forbid"):
    """What a client of today's asks for."""

    sensor: Literal["cpu", "gpu"]
    celsius: Annotated[int, pydantic.Field(ge=0, le=120)]
    is_hot: bool
    limits: Annotated[list[Limits], pydantic.Field(max_length=3)]
    note: Annotated[str, pydantic.Field(max_length=20)] | None


@pytest.mark.parametrize("temperature", [0, 0.7, 2])
def test_an_answer_can_be_parsed_into_the_client_s_own_types(client, temperature):
    reply = client.chat.completions.parse(
        model="gemma3n",
        messages=LOGS,
        response_format=Reading,
        temperature=temperature,
        top_p=1,
        seed=1,
        max_tokens=300,
        extra_body={"top_k": -1},
    )
    assert isinstance(reply.choices[0].message.parsed, Reading)
    assert reply.choices[0].finish_reason == "stop"


def test_a_stream_keeps_to_a_schema_and_so_does_every_choice(client):
    options = {
        "response_format": json_by(Reading.model_json_schema()),
        "n": 3,
        "temperature": 2,
        "seed": 4,
        "max_tokens": 300,
    }
    plain = ask(client, LOGS, **options)
    chunks = list(ask(client, LOGS, stream=True, **options))
    for choice in plain.choices:
        Reading.model_validate_json(choice.message.content)
        assert text_of_choice(chunks, choice.index) == choice.message.content
    assert len({choice.message.content for choice in plain.choices}) > 1


@pytest.mark.parametrize("temperature", [0, 2])
@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"\d{3}-[a-f]{2}"}, r"\d{3}-[a-f]{2}"),
        ({"choice": ["yes", "no", "ünsure"]}, "yes|no|ünsure"),
        ({"grammar": 'root ::= "<" ("a" | "b") ">"'}, "<[ab]>"),
        ({"grammar": 'start: "x" y? \ny: /[0-9]/'}, r"x\d?"),
        ({"json": {"type": "boolean"}}, "true|false"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_answer_can_be_held_to_other_forms(client, form, pattern, temperature):
    reply = ask(client, LOGS, temperature=temperature, extra_body={"structured_outputs": form})
    assert re.fullmatch(pattern, reply.choices[0].message.content)


def test_json_is_an_object_or_the_beginning_of_one(client):
    asked = {"response_format": {"type": "json_object"}, "seed": 3, "temperature": 1}
    reply = ask(client, LOGS, **asked, max_tokens=500, n=8)
    ended = [choice.message.content for choice in reply.choices if choice.finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(answer), dict) for answer in ended)
    cut = ask(client, LOGS, **asked, max_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content.startswith(cut.choices[0].message.content)


def test_a_grammar_that_becomes_too_much_is_the_request_s_own_end(client):
    explosive = {"structured_outputs": {"regex": "(([a-z]{1,1000}){1,1000}){1,1000}~"}}
    with pytest.raises(openai.BadRequestError, match="Simplify") as refused:
        ask(client, LOGS, extra_body=explosive)
    assert refused.value.code == "invalid_grammar"
    test_a_question_is_answered(client)


SENSOR = {"type": "string", "enum": ["cpu", "gpu", "board"]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_temperature",
            "description": "Reads a sensor, in degrees Celsius.",
            "parameters": {"type": "object", "properties": {"sensor": SENSOR}, "required": ["sensor"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "set_fan",
            "parameters": {
                "type": "object",
                "properties": {"speed": {"type": "integer", "minimum": 0, "maximum": 100}},
                "required": ["speed"],
            },
        },
    },
]


def assert_calls_are_valid(calls, names=("get_temperature", "set_fan")):
    assert calls
    for call in calls:
        assert call.function.name in names
        (tool,) = (tool for tool in TOOLS if tool["function"]["name"] == call.function.name)
        schema = tool["function"]["parameters"]
        jsonschema.validate(json.loads(call.function.arguments), schema | {"additionalProperties": False})


@pytest.mark.parametrize("temperature", [0, 0.7, 2])
@pytest.mark.parametrize(
    ("tool_choice", "names"),
    [
        ("required", ("get_temperature", "set_fan")),
        ({"type": "function", "function": {"name": "set_fan"}}, ("set_fan",)),
    ],
)
def test_a_call_that_has_to_be_is_one_and_valid(client, tool_choice, names, temperature):
    reply = ask(
        client, LOGS, tools=TOOLS, tool_choice=tool_choice, temperature=temperature, max_tokens=1_000, n=2
    )
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert_calls_are_valid(choice.message.tool_calls, names)


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("What is the CPU temperature?", [("get_temperature", {"sensor": "cpu"})]),
        ("Set the fan to 30 percent.", [("set_fan", {"speed": 30})]),
        ("Turn off the fan.", [("set_fan", {"speed": 0})]),
        (
            "How warm are the CPU and the GPU?",
            [("get_temperature", {"sensor": "cpu"}), ("get_temperature", {"sensor": "gpu"})],
        ),
        ("Where are the logs?", []),
    ],
)
def test_the_model_calls_what_is_asked_for_and_nothing_else(client, question, calls):
    (choice,) = ask(client, [{"role": "user", "content": question}], tools=TOOLS).choices
    made = [call.function for call in choice.message.tool_calls or []]
    assert [(call.name, json.loads(call.arguments)) for call in made] == calls
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    assert bool(choice.message.content) is not bool(calls)


def test_whatever_is_drawn_what_is_said_is_a_valid_call_or_text(client):
    for seed in range(3):
        options = {"tools": TOOLS, "temperature": 2, "seed": seed, "max_tokens": 1_000}
        (choice,) = ask(client, LOGS, **options).choices
        if choice.finish_reason == "tool_calls":
            assert_calls_are_valid(choice.message.tool_calls)
        else:
            assert choice.message.content
            assert choice.message.tool_calls is None


def test_a_streamed_call_is_the_plain_one(client):
    options = {"tools": TOOLS, "tool_choice": "required", "seed": 5, "temperature": 1, "max_tokens": 1_000}
    plain = ask(client, LOGS, **options).choices[0].message.tool_calls
    with client.chat.completions.stream(model="gemma3n", messages=LOGS, **options) as stream:
        told = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in told
    assert told.count("tool_calls.function.arguments.done") == len(plain)
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.content is None
    assert [
        call.function.model_dump(exclude={"parsed_arguments"}) for call in streamed.message.tool_calls
    ] == [call.function.model_dump() for call in plain]


def test_a_result_is_read_and_answered_in_text(client):
    question = [{"role": "user", "content": "How warm is the board?"}]
    options = {"tools": TOOLS, "parallel_tool_calls": False}
    message = ask(client, question, **options, tool_choice="required").choices[0].message
    (call,) = message.tool_calls
    for degrees, told in (("41", "41"), ("7", "7"), ("41", '{"celsius": 41}')):
        result = {"role": "tool", "tool_call_id": call.id, "content": told}
        history = [*question, message.model_dump(exclude_none=True), result]
        for tool_choice in ("none", "auto"):
            (choice,) = ask(client, history, tools=TOOLS, tool_choice=tool_choice).choices
            assert choice.message.content == f"The board is at {degrees} degrees."
            assert choice.finish_reason == "stop"


def bad_requests():
    picture = wire.image_part(Image.new("RGB", (64, 64), "white"))
    url = picture["image_url"]["url"]
    clip = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    image = lambda url: [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]  # noqa: E731
    return [
        ({"messages": []}, 400, None, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, 400, None, "messages[0].role"),
        ({"messages": LOGS, "temperature": "hot"}, 400, None, "temperature"),
        ({"messages": LOGS, "temperature": 3}, 400, None, "temperature"),
        ({"messages": LOGS, "n": 9}, 400, None, "n"),
        ({"messages": LOGS, "tools": [{}]}, 400, None, "tools[0].type"),
        ({"messages": LOGS, "tool_choice": "required"}, 400, None, "tool_choice"),
        ({"messages": LOGS, "functions": [{}]}, 400, "unsupported_parameter", "functions"),
        ({"messages": LOGS, "logit_bias": {"99999999": 1}}, 400, None, "logit_bias"),
        ({"messages": LOGS, "top_logprobs": 2}, 400, None, "top_logprobs"),
        (
            {"messages": LOGS, "response_format": json_by({"items": {"not": {}}})},
            400,
            "invalid_grammar",
            "response_format.json_schema.schema.items",
        ),
        ({"messages": LOGS, "max_tokens": 10**6}, 400, "context_length_exceeded", None),
        (
            {"messages": [{"role": "user", "content": "logs " * 20_000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        ({"messages": image("data:image/png;base64,!!!")}, 400, None, "messages[0].content[0].image_url"),
        ({"messages": image(url[:-60])}, 400, None, "messages[0].content[0].image_url"),
        ({"messages": image("https://example.com/x.png")}, 400, None, "messages[0].content[0].image_url"),
        (
            {"messages": [{"role": "user", "content": [clip]}]},
            400,
            None,
            "messages[0].content[0].input_audio",
        ),
        ({"messages": LOGS, "model": "gpt-9"}, 404, "model_not_found", "model"),
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "status", "code", "param"), bad_requests())
def test_a_bad_request_gets_a_clear_error(client, body, status, code, param, stream):
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**{"model": "gemma3n", "stream": stream, **body})
    error = refused.value
    assert error.status_code == status
    assert error.type == "invalid_request_error"
    assert error.message
    assert code is None or error.code == code
    assert param is None or (error.param or "").startswith(param)
