import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.api import body
from gemma3n_appliance.errors import InsufficientMemoryError, ModelLoadError
from gemma3n_appliance.host import worker
from tests.fakes.media import image_part
from tests.waiting import wait_until

from .conftest import Serve, Served
from .speaker import Speaker

CHAT = "/v1/chat/completions"
HELLO = {"model": "gemma3n", "messages": [{"role": "user", "content": "Hi"}]}


def error_of(answer, status: int) -> dict:
    """Every error, from any layer, has this shape, an id, and no page of anybody's."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in answer.text
    return error


def test_a_fault_in_the_request_is_named_by_its_path(served: Served):
    error = error_of(
        served.chat([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]), 400
    )
    assert (error["type"], error["param"]) == (
        "invalid_request_error",
        "messages[0].content[1].image_url.url",
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"functions": [{}]}, 400, "unsupported_parameter", "functions"),
        ({"model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"content": "x" * 5_000}, 400, "context_length_exceeded", "messages"),
        ({"max_tokens": 5_000}, 400, "context_length_exceeded", "max_tokens"),
        ({"content": [image_part(b"GIF89a")]}, 400, None, "messages[0].content[0].image_url"),
    ],
)
def test_a_refusal_has_a_status_of_its_own_in_both_modes(served: Served, fields, status, code, param, stream):
    error = error_of(served.chat(**fields, stream=stream), status)
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/v2/models", 404, "not_found"),
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/gpt-9", 404, "model_not_found"),
        ("GET", "/v1/models/someone/else", 404, "model_not_found"),
    ],
)
def test_what_is_not_there_is_an_error_object_too(served: Served, method, path, status, code):
    assert error_of(served.http.request(method, path), status)["code"] == code


def test_a_wrong_method_is_told_the_right_one(served: Served):
    assert "POST" in served.http.get(CHAT).headers["allow"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "APPLICATION/JSON"}, 200),
        ({}, 200),
    ],
)
def test_the_body_must_be_declared_as_plain_json(served: Served, headers, status):
    answer = served.http.post(CHAT, content=json.dumps(HELLO), headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert error_of(answer, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10_000])
def test_a_body_that_is_no_json_is_refused(served: Served, content):
    assert "JSON" in error_of(served.http.post(CHAT, content=content), 400)["message"]


def test_a_nul_in_a_text_is_answered_and_a_lone_surrogate_refused(served: Served):
    assert served.chat("a\0b").status_code == 200
    raw = b'{"model": "gemma3n", "messages": [{"role": "user", "content": "\\udc00"}]}'
    error_of(served.http.post(CHAT, content=raw), 400)


MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(serve: Serve, chunked):
    served = serve(max_body_mb=1)
    sent = json.dumps(HELLO).encode() + b" " * MEGABYTE
    pieces = (sent[i : i + 65_536] for i in range(0, len(sent), 65_536))
    answer = served.http.post(CHAT, content=pieces if chunked else sent)
    error = error_of(answer, 413)
    assert (error["code"], error["type"]) == ("request_too_large", "invalid_request_error")
    fits = json.dumps(HELLO).encode()
    assert served.http.post(CHAT, content=fits + b" " * (MEGABYTE - len(fits))).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_sent(serve: Serve):
    with serve(max_body_mb=1).connect() as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n" % CHAT.encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def everything(connection: socket.socket) -> bytes:
    """What comes until the server hangs up; it resets what it has not read to the end."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            received += piece
    return received


def test_a_body_that_trickles_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "GRACE_S", 0.3)
    with served.connect() as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n{" % CHAT.encode())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                connection.sendall(b" ")
                time.sleep(0.02)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_fast_enough_may_take_its_time(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "GRACE_S", 0.2)
    monkeypatch.setattr(body, "SLOWEST_BYTES_PER_S", 10)
    text = json.dumps(HELLO).encode()
    with served.connect() as connection:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(text))
        connection.sendall(head + text[:-1])
        time.sleep(0.5)
        connection.sendall(text[-1:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_never_comes_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "GRACE_S", 0.05)
    with served.connect() as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % CHAT.encode())
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in reply


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000 + b"\r\n\r\n"]
)
def test_what_is_not_http_gets_an_error_object_as_well(served: Served, sent):
    with capture_logs() as logs, served.connect() as connection:
        connection.sendall(sent)
        head, _, content = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "64 kB of headers" in json.loads(content)["error"]["message"]
    assert json.loads(content)["error"]["code"] == "bad_http"
    (line,) = (line for line in logs if line.get("status") == 400)
    assert b"x-request-id: %s" % line["request_id"].encode() in head


def test_a_head_that_never_comes_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "HEAD_S", 0.2)
    with served.connect() as silent, served.connect() as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nx-")
        assert everything(silent) == b""
        assert everything(slow).startswith(b"HTTP/1.1 408 ")
    # Between requests, a connection may rest.
    kept = http.client.HTTPConnection("127.0.0.1", served.port)
    for _ in range(2):
        kept.request("GET", "/health")
        assert b"ready" in kept.getresponse().read()
        time.sleep(0.5)
    kept.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_answers_429_and_when_to_come_back(serve: Serve, speaker: Speaker, stream):
    served = serve(max_queue=1)
    speaker.may_decode.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(served.chat) for _ in range(3)]
        wait_until(lambda: (served.engine.num_running, served.engine.num_waiting) == (2, 1))
        refused = served.chat(stream=stream)
        error = error_of(refused, 429)
        assert (error["code"], error["type"]) == ("server_overloaded", "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        speaker.may_decode.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_too_little_memory_for_one_request_answers_503_and_the_engine_lives(served, speaker, stream):
    speaker.prefill_error = InsufficientMemoryError("Too large. Send fewer pictures.")
    assert error_of(served.chat(stream=stream), 503)["code"] == "insufficient_memory"
    speaker.prefill_error = None
    assert served.chat().status_code == 200


def test_an_engine_that_fails_in_a_plain_request_answers_500(served: Served, speaker: Speaker):
    speaker.fail_after = 3
    error = error_of(served.chat(), 500)
    assert (error["code"], error["type"]) == ("engine_error", "server_error")
    assert "device is gone" not in error["message"]


def test_an_engine_that_fails_in_a_stream_sends_an_error_and_ends_it(served: Served, speaker: Speaker):
    speaker.fail_after = 3
    answer = served.chat(stream=True)
    *_, last = [line for line in answer.text.split("\n\n") if line]
    assert answer.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_error"
    speaker.fail_after = None
    assert served.chat().status_code == 200


def test_an_unexpected_fault_answers_500_without_its_details(served: Served, monkeypatch):
    def break_down(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served.engine, "generate", break_down)
    error = error_of(served.chat(), 500)
    assert (error["type"], error["code"]) == ("server_error", None)
    assert "secret" not in error["message"]


def test_a_model_that_loads_too_long_answers_503_and_when_to_come_back(serve: Serve, speaker: Speaker):
    may_load = threading.Event()

    def load():
        may_load.wait(10)
        return speaker.loaded()

    served = serve(load, load_wait=0.0)
    refused = served.chat()
    assert error_of(refused, 503)["code"] == "model_not_ready"
    assert int(refused.headers["retry-after"]) >= 1
    assert error_of(served.chat(stream=True), 503)["code"] == "model_not_ready"
    may_load.set()


def test_a_request_waits_for_a_model_that_is_loading(serve: Serve, speaker: Speaker):
    may_load = threading.Event()

    def load():
        may_load.wait(10)
        return speaker.loaded()

    served = serve(load)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.chat)
        assert served.http.get("/health").json()["status"] == "loading"
        may_load.set()
        assert answer.result().status_code == 200


def test_a_model_that_cannot_be_loaded_answers_503_and_why(serve: Serve):
    def load():
        raise ModelLoadError("weights.safetensors is truncated. Download it again.")

    error = error_of(serve(load).chat(), 503)
    assert (error["code"], "truncated" in error["message"]) == ("model_load_failed", True)


def test_a_server_that_shuts_down_takes_nothing_new(served: Served):
    served.chat()
    served.engine.close()
    refused = served.chat()
    assert error_of(refused, 503)["code"] == "shutting_down"
    assert refused.headers["connection"] == "close"


def test_a_full_queue_refuses_before_it_has_read_the_body(serve: Serve, speaker: Speaker):
    speaker.may_decode.clear()
    served = serve(max_queue=0)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(served.chat) for _ in range(2)]
        wait_until(lambda: served.engine.num_running == 2)
        with served.connect() as late:
            late.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{" % CHAT.encode())
            answer = b"".join(iter(lambda: late.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"server_overloaded" in answer
        assert b"retry-after: " in answer.lower()
        speaker.may_decode.set()
        assert [each.result().status_code for each in running] == [200, 200]


def test_a_refusal_reaches_whoever_has_sent_a_small_body(served: Served):
    served.chat()
    served.engine.close()
    body = b" " * 60_000
    for _ in range(30):  # closed with bytes unread, the connection is reset now and then
        with served.connect() as client:
            client.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
            )
            client.sendall(body)
            answer = b"".join(iter(lambda: client.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"shutting_down" in answer


def test_memory_that_runs_out_in_the_server_itself_is_a_503(served: Served, monkeypatch):
    def run_out(*_):
        raise MemoryError

    monkeypatch.setattr(served.engine, "generate", run_out)
    assert error_of(served.chat(), 503)["code"] == "insufficient_memory"


class Panic(BaseException):
    """As libraries written in Rust throw; no handler of Falcon's catches it."""


def test_what_no_handler_catches_is_an_error_object_all_the_same(served: Served, monkeypatch):
    def panic(*_):
        raise Panic("secret detail")

    monkeypatch.setattr(served.engine, "generate", panic)
    assert "secret" not in error_of(served.chat(), 500)["message"]
    monkeypatch.undo()
    assert served.chat().status_code == 200
