import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from gemma3n_appliance.api.access import AccessLog
from gemma3n_appliance.api.metrics import Metrics
from gemma3n_appliance.api.status import RecentErrors
from gemma3n_appliance.engine.engine import Engine
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.host import logs
from tests.waiting import wait_until

from .conftest import Served
from .speaker import Speaker


def test_a_sane_id_of_the_client_is_kept(served: Served):
    for sane in ("abc-123", "a" * 128, "req_1:2/3@host"):
        assert served.http.get("/health", headers={"x-request-id": sane}).headers["x-request-id"] == sane


@pytest.mark.parametrize("odd", ["a" * 129, "a b", 'a"b', "", "é".encode()])
def test_any_other_id_is_replaced(served: Served, odd):
    answer = served.http.get("/nowhere", headers={"x-request-id": odd})
    assert answer.headers["x-request-id"].startswith("req-")


def test_ids_differ(served: Served):
    assert len({served.http.get("/health").headers["x-request-id"] for _ in range(5)}) == 5


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What goes to stderr, once logs are configured as the server does it."""
    stderr = StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root = logging.getLogger()
    handlers, level, config = root.handlers, root.level, structlog.get_config()
    logs.configure("debug")
    yield stderr
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**config)
    logging.captureWarnings(False)


def test_every_line_about_a_request_has_its_id_and_none_its_content(served: Served, log: StringIO):
    served.chat("a secret", a_new_field=1, stream=True)
    request_id = served.chat("a secret", a_new_field=1).headers["x-request-id"]
    wait_until(lambda: f"event=request request_id={request_id}" in log.getvalue())
    lines = [line for line in log.getvalue().splitlines() if request_id in line]
    assert any("unknown_fields_ignored" in line and "a_new_field" in line for line in lines)
    (access,) = [line for line in lines if "event=request " in line]
    for pair in ("level=info", "method=POST", "path=/v1/chat/completions", "status=200", "duration_s="):
        assert pair in access
    assert "secret" not in log.getvalue()


def test_a_probe_that_goes_well_is_no_news(served: Served, log: StringIO):
    for path in ("/health", "/health/nowhere"):
        served.http.get(path)
    wait_until(lambda: log.getvalue().count("event=request ") == 2)
    probes = [line for line in log.getvalue().splitlines() if "event=request " in line]
    assert ["level=debug" in line for line in probes] == [True, False]


def test_the_lines_of_libraries_take_the_same_form(log: StringIO):
    logging.getLogger("some.library").warning("hello %s\nand more", "you")
    (line,) = log.getvalue().splitlines()
    assert 'level=warning event="hello you\\nand more"' in line
    assert "logger=some.library" in line


def test_who_is_cut_off_before_an_answer_gets_one():
    metrics = Metrics(Engine(Speaker().loaded, max_queue=1, prefill_chunk=64, pulse=Pulse(1)), "m", list)
    sent: list[dict] = []

    async def cut_off(*_):
        raise asyncio.CancelledError

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(AccessLog(cut_off, metrics, RecentErrors())(scope, None, send))
    start, content = sent
    assert start["status"] == 503
    assert {name for name, _ in start["headers"]} >= {b"x-request-id", b"connection"}
    assert json.loads(content["body"])["error"]["code"] == "shutting_down"
