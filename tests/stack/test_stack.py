"""The real thing, from the command line to the answer."""

import concurrent.futures
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.fakes.media import audio_part, image_part, picture
from tests.fakes.notify_socket import NotifySocket
from tests.waiting import wait_until

from .conftest import Stack, environment

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_plain_and_streamed_answers_are_the_same(client: openai.OpenAI):
    asked = {"model": "gemma3n", "messages": HELLO, "max_tokens": 24, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    stream = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert plain.choices[0].message.content == text
    told = stream[-1].usage
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (
        told.prompt_tokens,
        told.completion_tokens,
    )


def test_the_next_turn_of_a_chat_reads_only_what_is_new(client: openai.OpenAI):
    def ask(messages: list[dict[str, str]]) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(model="gemma3n", messages=messages, max_tokens=8, temperature=0)

    chat = [{"role": "user", "content": "what is this picture? " * 20}]
    first = ask(chat)
    chat += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "hello there"},
    ]
    again = ask(chat)
    assert first.usage.prompt_tokens_details.cached_tokens < 50
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens <= cached < again.usage.prompt_tokens


def greedy(client: openai.OpenAI, number: int) -> str:
    asked = [{"role": "user", "content": f"hello {number} " * (1 + number % 3)}]
    answer = client.chat.completions.create(model="gemma3n", messages=asked, max_tokens=16, temperature=0)
    return answer.choices[0].message.content


def one_at_a_time(client: openai.OpenAI, numbers: range) -> list[str]:
    return [greedy(client, number) for number in numbers]


def eight_at_once(client: openai.OpenAI, numbers: range) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(8) as eight:
        return list(eight.map(functools.partial(greedy, client), numbers))


def test_both_engines_answer_the_same_one_at_a_time_and_eight_at_once(
    client: openai.OpenAI, directory: Path, log: Path
):
    options = {"ENGINE": "reference", "DTYPE": "float32", "NUM_SLOTS": "8"}
    with (
        Stack(directory, log, **options) as reference,
        openai.OpenAI(base_url=f"{reference.url}/v1", api_key="none", max_retries=0) as other,
    ):
        assert one_at_a_time(client, range(8)) == one_at_a_time(other, range(8))
        assert eight_at_once(client, range(8, 16)) == eight_at_once(other, range(8, 16))
    assert "engine=reference" in reference.log


def test_another_gemma_is_served_by_transformers_for_text_alone(another_gemma: Path, log: Path):
    with (
        Stack(another_gemma, log, ENGINE="reference") as stack,
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client,
    ):
        alone = one_at_a_time(client, range(8))
        assert eight_at_once(client, range(8)) == alone
        assert len(set(alone)) > 1
        seen = [{"role": "user", "content": [image_part(picture())]}]
        with pytest.raises(openai.BadRequestError, match="does not take images"):
            client.chat.completions.create(model="gemma3n", messages=seen)


def test_a_picture_and_a_clip_go_through_the_encoders(client: openai.OpenAI):
    content = [{"type": "text", "text": "what"}, image_part(picture("JPEG", (90, 60))), audio_part()]
    answer = client.chat.completions.create(
        model="gemma3n", messages=[{"role": "user", "content": content}], max_tokens=2
    )
    details = answer.usage.prompt_tokens_details
    assert (details.image_tokens, details.audio_tokens) == (64, 188)


def test_errors_reach_the_official_client_as_its_own(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gemma3n", messages=HELLO, verbosity="low")
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "verbosity")


def test_models_and_health_tell_of_the_checkpoint(client: openai.OpenAI, stack: Stack):
    assert [model.id for model in client.models.list()] == ["Gemma-Untrained"]
    health = httpx2.get(f"{stack.url}/health").json()
    assert (health["status"], health["device"]) == ("ready", "cpu")


def test_one_line_a_request_and_no_page_or_header_of_the_servers(stack: Stack):
    answer = httpx2.post(f"{stack.url}/nowhere", headers={"x-request-id": "find-me"})
    assert answer.json()["error"]["code"] == "not_found"
    assert "server" not in answer.headers
    wait_until(lambda: "request_id=find-me" in stack.log)
    assert stack.log.count("request_id=find-me") == 1


def test_what_runs_is_finished_when_the_server_is_told_to_stop(directory: Path, log: Path):
    body = {"model": "gemma3n", "messages": HELLO, "stream": True, "max_tokens": 60, "ignore_eos": True}
    with (
        Stack(directory, log) as stack,
        httpx2.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=60) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        stack.process.terminate()
        *_, finish, done = lines
        assert done == "data: [DONE]"
        assert json.loads(finish.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert stack.process.wait(60) == 0
        assert "event=stopped" in stack.log
        assert not list(log.parent.glob(".gunicorn"))


def test_a_setting_that_cannot_be_ends_the_start_with_one_line():
    started = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--config", "python:gemma3n_appliance.gunicorn_conf"],
        env=environment(CONTEXT_LENGTH="5"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr.startswith("gemma3n-appliance: CONTEXT_LENGTH='5'")
    assert started.stderr.count("\n") == 1


def test_systemd_hears_that_the_server_is_ready_once_the_model_has_answered(directory: Path, log: Path):
    with (
        NotifySocket(log.parent) as manager,
        Stack(directory, log, NOTIFY_SOCKET=manager.address) as stack,
    ):
        wait_until(lambda: "READY=1" in manager.told)
        assert all(f"event=warmed_up path={path}" in stack.log for path in ("text", "image", "audio"))
        assert "STATUS=Gunicorn arbiter booted" not in manager.told
        assert stack.stop() == 0


def test_a_start_under_systemd_whose_model_cannot_be_loaded_ends_and_says_why(directory: Path, log: Path):
    broken = shutil.copytree(directory, log.parent / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with NotifySocket(log.parent) as manager:
        stack = Stack(broken, log, NOTIFY_SOCKET=manager.address)
        assert stack.process.wait(60) == 1
        assert "READY=1" not in manager.told
        wait_until(lambda: any(told.startswith("STATUS=failed: ") for told in manager.told))
