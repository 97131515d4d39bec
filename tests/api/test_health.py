import threading
from pathlib import Path

import pytest

from gemma3n_appliance.errors import ModelLoadError
from tests.waiting import wait_until

from .conftest import Serve
from .speaker import Speaker


def test_a_ready_server_tells_how_it_is(serve: Serve):
    served = serve(model_name="google/gemma-3n-e4b")
    served.engine.start_loading()
    wait_until(lambda: served.http.get("/health/ready").status_code == 200)
    answer = served.http.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health.pop("uptime_s") >= 0
    assert health.pop("version")
    assert health == {
        "status": "ready",
        "model": "google/gemma-3n-e4b",
        "device": "cpu",
        "bytes_left_on_disk": 0,
        "queue": {"running": 0, "waiting": 0, "slots": 2},
        "tokens_per_s": None,
        "error": None,
    }


def test_health_tells_how_fast_the_last_answers_were(serve: Serve):
    served = serve()
    served.engine.start_loading()
    wait_until(lambda: served.http.get("/health/ready").status_code == 200)
    question = {"model": "gemma3n", "messages": [{"role": "user", "content": "Hello"}]}
    assert served.http.post("/v1/chat/completions", json=question).status_code == 200
    assert served.http.get("/health").json()["tokens_per_s"] > 0


def test_a_model_that_is_not_on_disk_waits_for_the_first_request(serve: Serve, tmp_path: Path):
    served = serve(models_dir=str(tmp_path), model_name="google/gemma-3n-e4b")
    assert served.http.get("/health").json()["status"] == "idle"
    assert served.http.get("/health").status_code == 200
    assert served.http.get("/health/ready").status_code == 503


def test_a_model_on_disk_loads_at_start_and_health_answers_meanwhile(serve: Serve, speaker: Speaker):
    may_load = threading.Event()

    def load():
        may_load.wait(10)
        return speaker.loaded()

    served = serve(load)
    health = served.http.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["device"]) == (200, "loading", None)
    assert served.http.get("/health/ready").status_code == 503
    may_load.set()
    wait_until(lambda: served.http.get("/health/ready").status_code == 200)


def test_a_failed_load_is_told_and_may_yet_succeed(serve: Serve):
    def load():
        raise ModelLoadError("The disk is full.")

    served = serve(load)
    wait_until(lambda: served.http.get("/health").json()["status"] == "failed")
    answer = served.http.get("/health")
    assert (answer.status_code, answer.json()["error"]) == (200, "The disk is full.")


def test_work_shows_in_the_queue(serve: Serve, speaker: Speaker):
    served = serve()
    speaker.may_decode.clear()
    callers = [threading.Thread(target=served.chat) for _ in range(3)]
    for caller in callers:
        caller.start()
    busy = {"running": 2, "waiting": 1, "slots": 2}
    wait_until(lambda: served.http.get("/health").json()["queue"] == busy)
    speaker.may_decode.set()
    for caller in callers:
        caller.join()
    assert served.http.get("/health").json()["queue"] == {"running": 0, "waiting": 0, "slots": 2}


def test_a_dead_engine_answers_503(serve: Serve, speaker: Speaker, monkeypatch: pytest.MonkeyPatch):
    def break_down(_slot: int) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(speaker, "release", break_down)
    served = serve()
    served.chat()
    wait_until(lambda: served.http.get("/health").status_code == 503)
    assert served.http.get("/health").json()["status"] == "dead"
    assert served.chat().json()["error"]["code"] == "engine_error"


def test_a_stuck_engine_answers_503(serve: Serve, speaker: Speaker):
    served = serve(step_limit=1)
    speaker.may_decode.clear()
    caller = threading.Thread(target=served.chat)
    caller.start()
    wait_until(lambda: served.http.get("/health").status_code == 503)
    assert served.http.get("/health").json()["status"] == "stuck"
    speaker.may_decode.set()
    caller.join()
    assert served.http.get("/health").status_code == 200


def test_a_server_that_would_refuse_is_not_ready_and_not_ill(serve: Serve, speaker: Speaker):
    served = serve(max_queue=0)
    speaker.may_decode.clear()
    callers = [threading.Thread(target=served.chat) for _ in range(2)]
    for caller in callers:
        caller.start()
    wait_until(lambda: served.engine.num_running == 2)
    assert served.http.get("/health/ready").status_code == 503
    assert served.http.get("/health").status_code == 200
    speaker.may_decode.set()
    for caller in callers:
        caller.join()
    assert served.http.get("/health/ready").status_code == 200
