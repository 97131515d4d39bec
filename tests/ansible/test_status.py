import http.server
import json
import threading

import pytest

from tests.ansible.modules import AnsibleModule, load

READY = {
    "status": "ready",
    "model": "google/gemma-3n-e4b",
    "tokens_per_s": 17.2,
    "queue": {"running": 1, "waiting": 2, "slots": 4},
}


@pytest.fixture
def status(monkeypatch):
    return load(monkeypatch, "library/gemma3n_status.py")


@pytest.fixture
def port_of():
    """Starts a server that answers so, and returns its port."""
    stops = []

    def start(code, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_): ...

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stops.extend([server.shutdown, thread.join, server.server_close])
        return server.server_address[1]

    yield start
    for stop in stops:
        stop()


def told(status, port):
    AnsibleModule.params = {"port": port, "host": "0.0.0.0"}
    status.main()
    return AnsibleModule.told["status"]


def test_a_server_tells_its_state(status, monkeypatch, port_of, tmp_path):
    (tmp_path / "0.1.0-1b2c3d4e").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "0.1.0-1b2c3d4e")
    monkeypatch.setattr(status, "CURRENT", tmp_path / "current")
    found = told(status, port_of(200, json.dumps(READY).encode()))
    assert 0 < found.pop("memory_free_mb") < found.pop("memory_mb")
    found.pop("hottest_c")
    assert found == {
        "release": "0.1.0-1b2c3d4e",
        "model": "google/gemma-3n-e4b",
        "state": "ready",
        "tokens_per_s": 17.2,
        "running": 1,
        "waiting": 2,
    }


def test_a_dead_engine_is_told_too(status, port_of):
    assert told(status, port_of(503, b'{"status": "dead"}'))["state"] == "dead"


@pytest.mark.parametrize(("code", "body"), [(200, b"<html>"), (502, b"<html>"), (200, b"[]")])
def test_what_is_not_ours_is_no_answer(status, port_of, code, body):
    assert told(status, port_of(code, body))["state"] == "no answer"


def test_a_board_without_a_server_tells_the_rest(status):
    found = told(status, 1)
    assert (found["state"], found["model"]) == ("no answer", "-")
    assert found["memory_mb"] > 0
