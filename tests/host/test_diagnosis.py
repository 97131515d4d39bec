import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma3n_appliance.host import diagnosis, key_file, sensors
from gemma3n_appliance.settings import Settings
from tests.host.appliance import REPO, WEIGHTS, Appliance

JETPACK_5 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref"
JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic"


def found(name: str, settings: Settings) -> diagnosis.Finding:
    [(_, finding)] = diagnosis.examine(settings, [name])
    return finding


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, model_name=REPO, models_dir=tmp_path / "models", gemma3n_port=1)


@pytest.fixture
def answers(settings: Settings) -> Iterator[list[tuple[int, object]]]:
    """What a server on the settings' port answers; empty it to have no server."""
    told: list[tuple[int, object]] = [(200, {})]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = told[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        object.__setattr__(settings, "gemma3n_port", server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def test_a_check_prints_what_is_wrong_and_what_to_do(complete: Appliance):
    (complete.model_dir / WEIGHTS).unlink()
    checked = complete.run("check", "settings", "model")
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        f"ok    settings     {REPO}, port 8000",
        f"FAULT model        {REPO} is not complete in {complete.model_dir}: {WEIGHTS} of it is missing",
        "                   → gemma3n-appliance download, which says why if it cannot; "
        "Gemma's repositories want a token, HF_TOKEN",
    ]


def test_a_check_that_finds_nothing_ends_with_0(complete: Appliance):
    checked = complete.run("check", "model", "disk")
    assert (checked.returncode, "FAULT" in checked.stdout) == (0, False)


def test_what_cannot_be_checked_is_named(appliance: Appliance):
    checked = appliance.run("check", "weather")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert "cannot check weather: see --help" in checked.stderr


def test_bad_settings_are_said_by_every_check(appliance: Appliance):
    checked = appliance.run("check", "settings", NUM_SLOTS="many")
    assert checked.returncode == 2
    assert "NUM_SLOTS='many'" in checked.stderr


@pytest.mark.parametrize(
    ("release", "text", "is_well"),
    [
        (JETPACK_6, "Jetson Orin Nano, L4T 36.4.3", True),
        (JETPACK_5, "Jetson Orin Nano, L4T 35.4.1", False),
        ("", "Jetson Orin Nano, no Jetson", True),
    ],
)
def test_a_board_with_an_old_jetpack_is_told(settings, monkeypatch, tmp_path, release, text, is_well):
    (tmp_path / "release").write_text(release)
    (tmp_path / "board").write_bytes(b"Jetson Orin Nano\0")
    monkeypatch.setattr(diagnosis, "L4T_RELEASE", tmp_path / "release")
    monkeypatch.setattr(diagnosis, "BOARD", tmp_path / "board")
    finding = found("board", settings)
    assert (finding.text, finding.advice is None) == (text, is_well)


@pytest.mark.parametrize(("year", "is_well"), [(1970, False), (2026, True)])
def test_a_clock_that_was_never_set_is_told(settings, monkeypatch, year, is_well):
    now = time.struct_time((year, 1, 1, 0, 0, 0, 0, 1, 0))
    monkeypatch.setattr(time, "localtime", lambda: now)
    assert (found("clock", settings).advice is None) == is_well


@pytest.mark.parametrize(("milli_c", "is_well"), [("51000", True), ("97500", False)])
def test_a_board_that_is_too_hot_is_told(settings, monkeypatch, tmp_path, milli_c, is_well):
    for number, text in enumerate(("40000", milli_c, "")):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}/temp").write_text(text)
    (tmp_path / "thermal_zone9/temp").mkdir(parents=True)  # cannot be read
    monkeypatch.setattr(sensors, "THERMAL", tmp_path)
    assert (found("temperature", settings).advice is None) == is_well


@pytest.mark.parametrize(
    ("total_kb", "available_kb", "advice"),
    [
        (8_000_000, 6_000_000, None),
        (8_000_000, 1_000_000, "end other programs"),
        (2_000_000, 1_000_000, "choose a smaller one"),
        (4_100_000, 4_000_000, "choose a smaller one"),  # CUDA and torch need some as well
    ],
)
def test_a_memory_too_small_for_the_weights_is_told(
    settings, monkeypatch, tmp_path, total_kb, available_kb, advice
):
    settings.model_dir.mkdir(parents=True)
    with (settings.model_dir / WEIGHTS).open("wb") as file:
        file.truncate(4_000_000_000)
    memory = tmp_path / "meminfo"
    memory.write_text(f"MemTotal:  {total_kb} kB\nMemFree:  1 kB\nMemAvailable: {available_kb} kB\n")
    monkeypatch.setattr(sensors, "MEMORY", memory)
    finding = found("memory", settings)
    assert (advice is None) == (finding.advice is None)
    assert (advice or "") in (finding.advice or "")


def test_memory_that_the_server_itself_uses_is_no_fault(settings, monkeypatch, tmp_path, answers):
    settings.model_dir.mkdir(parents=True)
    with (settings.model_dir / WEIGHTS).open("wb") as file:
        file.truncate(4_000_000_000)
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable: 1000000 kB\n")
    answers[0] = (200, {"status": "ready"})
    monkeypatch.setattr(sensors, "MEMORY", tmp_path / "meminfo")
    assert found("memory", settings).advice is None


@pytest.mark.parametrize(
    ("answer", "text", "is_well"),
    [
        ((200, {"status": "ready", "queue": {"running": 1, "waiting": 2}}), "1 running, 2 waiting", True),
        ((200, {"status": "failed", "error": "The disk is full."}), "The disk is full.", False),
        ((503, {"status": "stuck", "error": None}), "stuck", False),
        ((404, {"detail": "Not Found"}), "another program answers", False),
    ],
)
def test_what_the_server_says_of_itself_is_told(settings, answers, answer, text, is_well):
    answers[0] = answer
    finding = found("server", settings)
    assert text in finding.text
    assert (finding.advice is None) == is_well


@pytest.mark.parametrize(
    ("shown", "text", "advice"),
    [
        ("LoadState=not-found\nActiveState=inactive\nSubState=dead\nStatusText=", "there is no", "start it"),
        ("LoadState=loaded\nActiveState=inactive\nSubState=dead", "is inactive", "systemctl start"),
        (
            "LoadState=loaded\nActiveState=activating\nSubState=start\nStatusText=waits 20 s because",
            "its status: waits 20 s because",
            "journalctl -u",
        ),
    ],
)
def test_a_server_that_does_not_answer_is_looked_for(settings, monkeypatch, tmp_path, shown, text, advice):
    monkeypatch.setattr(diagnosis, "SYSTEMD", tmp_path)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, shown, "")
    )
    finding = found("server", settings)
    assert text in finding.text
    assert advice in (finding.advice or "")


def test_a_server_by_hand_is_missed(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "SYSTEMD", tmp_path / "none")
    assert "bin/serve" in (found("server", settings).advice or "")


def test_a_torch_that_cannot_be_imported_is_told(settings, monkeypatch):
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -4, "", "Fatal Python error: Illegal instruction\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert found("torch", settings).advice == "Fatal Python error: Illegal instruction"


def test_a_disk_too_small_for_what_is_missing_is_told(complete: Appliance, monkeypatch: pytest.MonkeyPatch):
    assert found("disk", complete.settings).advice is None
    (complete.model_dir / WEIGHTS).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 500 * 10**6))
    assert "still wants 503 MB" in (found("disk", complete.settings).advice or "")


def test_what_cannot_be_looked_at_is_a_finding(settings, monkeypatch):
    def denied(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", "/models")

    monkeypatch.setattr(Path, "exists", denied)
    assert found("disk", settings).advice == "run this as root"


def test_keys_are_counted_and_a_file_without_any_is_told(settings, tmp_path):
    assert found("keys", settings).advice is None
    with_keys = settings.model_copy(update={"api_keys_file": tmp_path / "keys"})
    assert "key new" in (found("keys", with_keys).advice or "")
    key_file.add(tmp_path / "keys", "laptop")
    assert found("keys", with_keys) == diagnosis.Finding(f"1 in {tmp_path / 'keys'}")
    key_file.revoke(tmp_path / "keys", "laptop")
    assert "nobody can ask" in (found("keys", with_keys).advice or "")
