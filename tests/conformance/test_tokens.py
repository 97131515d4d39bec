"""What a text or a chat would cost, beside what it does cost."""

import httpx2
import pytest
from PIL import Image

from gemma3n_appliance.demo import wire

from .test_chat import LOGS, TOOLS, ask


def post(url, path, **body):
    return httpx2.post(f"{url}{path}", json=body)


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}])
def test_a_chat_costs_what_was_said_before(url, client, fields):
    told = post(url, "/tokenize", model="gemma3n", messages=LOGS, **fields).json()
    assert told["count"] == len(told["tokens"]) == ask(client, LOGS, **fields).usage.prompt_tokens
    assert told["max_model_len"] == 4096
    assert told["token_strs"] is None


def test_pictures_count_and_are_not_looked_at(url, client):
    picture = wire.image_part(Image.new("RGB", (64, 64), "red"))
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]
    broken = [
        {"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}, messages[0]["content"][1]]}
    ]
    count = ask(client, messages, max_tokens=1).usage.prompt_tokens
    assert post(url, "/tokenize", messages=messages).json()["count"] == count
    assert post(url, "/tokenize", messages=broken).json()["count"] == count


@pytest.mark.parametrize(
    "text", ["", "Hello there.", "  two  spaces\n", "ünï 漢 😀", "<end_of_turn> is text"]
)
def test_a_text_comes_back_as_it_was(url, text):
    told = post(url, "/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert post(url, "/detokenize", model="gemma3n", tokens=told["tokens"]).json() == {"prompt": text}


def test_a_text_begins_as_prompts_do_unless_it_is_told_not_to(url):
    with_bos, without = (
        post(url, "/tokenize", prompt="Hello", add_special_tokens=wanted).json()["tokens"]
        for wanted in (True, False)
    )
    assert with_bos[1:] == without
    assert post(url, "/detokenize", tokens=with_bos).json() == {"prompt": "<bos>Hello"}
    assert post(url, "/tokenize", prompt="Hello").json()["tokens"] == with_bos


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": LOGS}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("/tokenize", {"messages": LOGS, "add_generation_prompt": False}, 400, "add_generation_prompt"),
        ("/tokenize", {"messages": LOGS, "tool_choice": "required"}, 400, "tool_choice"),
        ("/tokenize", {"messages": [{"role": "user", "content": "logs " * 50_000}]}, 400, "messages"),
        ("/tokenize", {"prompt": "logs " * 50_000}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt-9"}, 404, "model"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [5, 10**6]}, 400, "tokens[1]"),
        ("/detokenize", {"tokens": [1.5]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "model": "gpt-9"}, 404, "model"),
    ],
)
def test_a_bad_request_is_refused_by_its_path(url, path, body, status, param):
    reply = post(url, path, **body)
    assert reply.status_code == status
    assert reply.json()["error"]["param"] == param
    assert reply.headers["x-request-id"]
