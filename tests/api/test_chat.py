import functools
import json
import threading

import openai
import pytest

from gemma3n_appliance.api import sse
from tests.fakes.media import audio_part, image_part, picture

from .conftest import Serve, Served
from .speaker import Speaker


def frames(served: Served, **fields) -> list[str]:
    answer = served.chat(stream=True, **fields)
    assert answer.status_code == 200
    return [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]


def text_of(frames: list[str]) -> str:
    choices = [choice for frame in frames[:-1] for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_a_plain_answer(served):
    answer = served.chat()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello there.", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["model"] == "gemma3n"


def test_a_streamed_answer_says_the_same(served):
    plain = served.chat().json()
    streamed = frames(served, stream_options={"include_usage": True})
    assert streamed[-1] == "[DONE]"
    assert text_of(streamed) == plain["choices"][0]["message"]["content"]
    assert json.loads(streamed[-2])["usage"] == plain["usage"]


def test_a_stream_is_kept_from_buffers_and_caches(served):
    answer = served.chat(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache"


def test_text_arrives_while_more_is_made(served: Served, speaker: Speaker):
    speaker.may_decode.clear()
    with served.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "gemma3n", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
    ) as answer:
        lines = answer.iter_lines()
        seen = ""
        while '"content":"H"' not in seen:
            seen += next(lines)
        assert not speaker.released.is_set()
        speaker.may_decode.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_pictures_and_clips_reach_the_engine_and_are_counted(served: Served, speaker: Speaker):
    answer = served.chat([image_part(), {"type": "text", "text": "and"}, audio_part(), image_part()])
    assert [type(each).__name__ for each in speaker.requests[0].media] == ["Image", "Audio", "Image"]
    details = answer.json()["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 0, "image_tokens": 8, "audio_tokens": 3}
    assert answer.json()["usage"]["prompt_tokens"] == len(speaker.requests[0].token_ids)


def test_the_engine_sees_the_id_that_the_reply_carries(served: Served, speaker: Speaker):
    answer = served.chat()
    assert speaker.requests[0].request_id == answer.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_and_a_token_limit_end_the_answer(served: Served, stream):
    def said(**fields):
        if stream:
            chunks = frames(served, **fields)
            return text_of(chunks), json.loads(chunks[-2])["choices"][0]["finish_reason"]
        choice = served.chat(**fields).json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]

    assert said(stop="lo t") == ("Hel", "stop")
    assert said(max_tokens=3) == ("Hel", "length")
    assert said(max_completion_tokens=3) == ("Hel", "length")


@pytest.mark.parametrize(
    "name", ["gemma3n", "GEMMA3N", "Gemma-Small", "gemma-small"], ids=["alias", "shouted", "base", "lower"]
)
def test_the_reply_echoes_the_name_that_was_used(served: Served, name):
    assert served.chat(model=name).json()["model"] == name


def test_the_official_client_reads_both_kinds_of_reply(served: Served):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none") as client:
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, image_part(picture("JPEG"))]}
        ]
        plain = client.chat.completions.create(model="gemma3n", messages=messages)
        assert plain.choices[0].message.content == "Hello there."
        streamed = client.chat.completions.create(model="gemma3n", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "Hello there."
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="gpt-9", messages=messages)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_stream_that_waits_for_a_load_says_that_it_is_alive(serve: Serve, speaker: Speaker, monkeypatch):
    may_load = threading.Event()

    def load():
        may_load.wait(10)
        return speaker.loaded()

    monkeypatch.setattr(sse, "stream", functools.partial(sse.stream, ping_interval_s=0.05))
    body = {"model": "gemma3n", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with serve(load).http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        assert next(lines) == ": ping"
        may_load.set()
        assert list(lines)[-1] == "data: [DONE]"
