"""What those see who are there when the server is told to stop."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from gemma3n_appliance.host import worker
from tests.waiting import wait_until

from .conftest import Served
from .speaker import Speaker
from .test_errors import error_of

BODY = {"model": "gemma3n", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def held(served: Served, speaker: Speaker) -> Served:
    """A server whose answers do not go on."""
    speaker.may_decode.clear()
    return served


def is_draining(served: Served) -> bool:
    return served.engine.state.value == "draining"


@contextmanager
def answering_while_it_drains(held: Served) -> Iterator[Future[httpx2.Response]]:
    """Gives the answer to come of a server that was told to stop before it had gone on."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(held.chat)
        wait_until(lambda: held.engine.num_running == 1)
        held.terminate()
        wait_until(lambda: is_draining(held))
        yield answer


def test_what_runs_is_finished(held: Served, speaker: Speaker):
    with answering_while_it_drains(held) as answer:
        speaker.may_decode.set()
        assert answer.result().json()["choices"][0]["message"]["content"] == "Hello there."


def test_who_comes_while_it_drains_is_sent_elsewhere(held: Served, speaker: Speaker):
    with answering_while_it_drains(held) as answer:
        with httpx2.Client(base_url=held.http.base_url) as another:
            refused = another.post("/v1/chat/completions", json=BODY)
            assert another.get("/health/ready").status_code == 503
        assert error_of(refused, 503)["code"] == "shutting_down"
        assert refused.headers["connection"] == "close"
        speaker.may_decode.set()
        assert answer.result().status_code == 200


def test_what_takes_too_long_is_told_so_plainly(held: Served, speaker: Speaker, monkeypatch):
    monkeypatch.setattr(worker, "DRAIN_S", 0.1)
    with answering_while_it_drains(held) as answer:
        threading.Timer(0.5, speaker.may_decode.set).start()
        speaker.answer_endlessly = True
        assert error_of(answer.result(), 503)["code"] == "shutting_down"


def test_a_stream_that_takes_too_long_ends_with_an_error_frame(held: Served, speaker: Speaker, monkeypatch):
    monkeypatch.setattr(worker, "DRAIN_S", 0.1)
    with held.http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        next(lines)
        held.terminate()
        wait_until(lambda: is_draining(held))
        speaker.answer_endlessly = True
        threading.Timer(0.5, speaker.may_decode.set).start()
        *_, last = lines
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
