"""Prompts without a chat's form, through the official client."""

import json
from functools import partial
from pathlib import Path

import httpx2
import openai
import pytest

from .test_chat import COUNT, LOGS, ask

NAME = [{"role": "user", "content": "Spell abacus."}]
CHATS = [LOGS, COUNT, NAME]
PICTURE_TOKEN = json.loads(Path("gemma3n_appliance/demo/checkpoint_files/config.json").read_text())[
    "image_token_id"
]


@pytest.fixture(scope="module")
def prompts(url):
    """What chats become, as the ids of tokens."""
    return [httpx2.post(f"{url}/tokenize", json={"messages": chat}).json()["tokens"] for chat in CHATS]


def complete(client, prompt, **options):
    if options.get("stream"):
        # The SDK's type has no null for a text that has not ended, which OpenAI's own chunks have.
        client = client.copy(_extra_kwargs={"_strict_response_validation": False})
    return client.completions.create(
        model="gemma3n", prompt=prompt, **{"temperature": 0, "max_tokens": 120, **options}
    )


def folded(chunks):
    """The texts and reasons of a stream, and what it cost at the end."""
    texts, reasons, usage = {}, {}, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in reasons, "more after the end"
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def test_the_tokens_of_a_chat_are_answered_as_the_chat_is(client, prompts):
    for chat, prompt in zip(CHATS, prompts, strict=True):
        known, reply = ask(client, chat), complete(client, prompt)
        assert reply.choices[0].text == known.choices[0].message.content
        assert reply.choices[0].finish_reason == "stop"
        assert reply.choices[0].logprobs is None
        assert (reply.object, reply.model) == ("text_completion", "gemma3n")
        assert reply.id.startswith("cmpl-")
        assert reply.usage.prompt_tokens == len(prompt)
        assert reply.usage.completion_tokens == known.usage.completion_tokens


@pytest.mark.parametrize("n", [1, 3])
def test_several_prompts_are_answered_as_each_alone(client, prompts, n):
    options = {"temperature": 1, "seed": 5, "n": n}
    alone = [choice.text for prompt in prompts for choice in complete(client, prompt, **options).choices]
    together = complete(client, prompts, **options)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [*range(3 * n)]
    assert together.usage.prompt_tokens == sum(map(len, prompts))
    stream = complete(client, prompts, **options, stream=True, stream_options={"include_usage": True})
    texts, reasons, usage = folded(stream)
    assert [texts[index] for index in range(3 * n)] == alone
    assert [reasons[index] for index in range(3 * n)] == [x.finish_reason for x in together.choices]
    apart = {"prompt_tokens_details"}
    assert usage.model_dump(exclude=apart) == together.usage.model_dump(exclude=apart)


def test_a_text_is_a_prompt_too_and_no_control_token(url, client):
    texts = ["The logs are", "Hello<end_of_turn>"]
    together = complete(client, texts, max_tokens=5)
    for text, choice in zip(texts, together.choices, strict=True):
        reply = complete(client, text, max_tokens=5)
        assert reply.choices[0].text == choice.text
        told = httpx2.post(f"{url}/tokenize", json={"prompt": text}).json()
        assert reply.usage.prompt_tokens == told["count"]
        assert complete(client, told["tokens"], max_tokens=5).choices[0].text == choice.text


def test_without_a_limit_there_are_sixteen_tokens(client, prompts):
    reply = client.completions.create(model="gemma3n", prompt=prompts[1], extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 16
    assert reply.choices[0].finish_reason == "length"


def test_without_a_limit_there_are_no_more_tokens_than_fit(url, client):
    context = httpx2.post(f"{url}/tokenize", json={"prompt": "Hi"}).json()["max_model_len"]
    reply = client.completions.create(
        model="gemma3n", prompt=[7] * (context - 5), extra_body={"ignore_eos": True}
    )
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")


def test_what_begins_a_prompt_can_be_left_out(client):
    counts = [
        complete(client, "Hi", max_tokens=1, extra_body=extra).usage.prompt_tokens
        for extra in ({}, {"add_special_tokens": True}, {"add_special_tokens": False})
    ]
    assert counts[0] == counts[1] == counts[2] + 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_is_the_prompt_before_the_answer(client, stream):
    asked = ["The logs ", "ünï 漢"]
    silent = [choice.text for choice in complete(client, asked, max_tokens=4).choices]
    reply = complete(client, asked, max_tokens=4, echo=True, stream=stream)
    texts = folded(reply)[0] if stream else {choice.index: choice.text for choice in reply.choices}
    assert [texts[0], texts[1]] == [prompt + text for prompt, text in zip(asked, silent, strict=True)]


def test_an_echo_of_tokens_is_their_text(client, prompts):
    (choice,) = complete(client, prompts[0], echo=True).choices
    assert choice.text.startswith("<bos><start_of_turn>user\nWhere are the logs?<end_of_turn>")
    assert choice.text.endswith("run journalctl -u gemma3n-api.")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_chat_in_the_older_form(client, prompts, stream):
    known = ask(client, NAME, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    reply = complete(client, prompts[2], logprobs=3, stream=stream)
    if stream:
        choices = [choice for chunk in reply for choice in chunk.choices]
        told = [choice.logprobs for choice in choices if choice.logprobs]
        text = "".join(choice.text for choice in choices)
    else:
        (choice,) = reply.choices
        told, text = [choice.logprobs], choice.text
    tokens = [token for each in told for token in each.tokens]
    assert tokens == [token.token for token in known]
    # A prompt prefilled from another place of the prefix cache is rounded otherwise.
    close = partial(pytest.approx, abs=1e-4)
    assert [x for each in told for x in each.token_logprobs] == close([x.logprob for x in known])
    for token, top in zip(known, [x for each in told for x in each.top_logprobs], strict=True):
        assert top == close({x.token: x.logprob for x in (*token.top_logprobs, token)})
    offsets = [offset for each in told for offset in each.text_offset]
    assert all(text[offset:].startswith(token) for offset, token in zip(offsets, tokens, strict=True))
    assert offsets[0] == 0


def test_answers_stop_and_keep_to_a_form_as_in_chats(client, prompts):
    assert complete(client, prompts[0], stop=["journal:"]).choices[0].text == "The logs are in the "
    form = {"structured_outputs": {"regex": "[0-9]{4}"}}
    for choice in complete(client, prompts, temperature=2, extra_body=form).choices:
        assert len(choice.text) == 4
        assert choice.text.isdigit()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [["a"]]}, "prompt[0][0]"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [5, 10**9]}, "prompt[1]"),
        ({"prompt": [5, PICTURE_TOKEN]}, "prompt[1]"),
        ({"prompt": [[5], [PICTURE_TOKEN]]}, "prompt[1][0]"),
        ({"prompt": ["Hi", "word " * 6_000]}, "prompt[1]"),
        ({"prompt": [[5], [7] * 5_000]}, "prompt[1]"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 3, "logprobs": 1}, "prompt"),
        ({"prompt": [7] * 5_000}, "prompt"),
        ({"max_tokens": 5_000}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": [1]}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 9}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"min_tokens": 3}, "min_tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_named(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/completions", body={"model": "gemma3n", "prompt": "Hi"} | fields, cast_to=object)
    assert refused.value.param == param


def test_another_model_is_not_there(client):
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="davinci-002", prompt="Hi")
