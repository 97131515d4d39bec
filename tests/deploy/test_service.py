"""The service on a booted machine, set up by hand as systemd/README.md says."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.deploy.conftest import HUB_PORT, MODEL, TOKEN, Hub, ask, boot, install_release, readme_script
from tests.deploy.lab import ROUTER, Lab, Machine
from tests.fakes.hub import Stall
from tests.waiting import wait_until

API, WARM = "gemma3n-api", "gemma3n-cache-warm"
MODEL_DIR = f"/models/{MODEL.replace('/', '--')}"
LOGS = "The logs are in the journal: run journalctl -u gemma3n-api."
ENVIRONMENT = f"""
HF_ENDPOINT=http://{ROUTER}:{HUB_PORT}
DEVICE=cpu
CONTEXT_LENGTH=2048
STEP_LIMIT=6
OMP_NUM_THREADS=1
"""
# Read by Python when it starts: has a decode step hang once the file is there.
FAULT = """
import os, time
from gemma3n_appliance.engine.loop import Loop
decode = Loop._decode
def hang(self, batch):
    while os.path.exists("/run/gemma3n/hang"):
        time.sleep(0.1)
    return decode(self, batch)
Loop._decode = hang
"""


@pytest.fixture(scope="module")
def board(lab: Lab, base: Path, hub: Hub) -> Machine:
    """A board after the first start."""
    machine = boot(lab, base, "board")
    install_release(machine)
    machine.shell(readme_script(2))
    (machine.root / "etc/gemma3n/gemma3n.env").write_text(ENVIRONMENT)
    machine.shell(f"printf %s {TOKEN} | (\n{readme_script(3)}\n)")
    machine.shell(readme_script(5))
    return machine


@pytest.fixture(autouse=True)
def sound(board: Machine, hub: Hub) -> Iterator[None]:
    """Every test begins with a server that answers, and leaves one that can."""
    if not (is_ready(board) and board.property_of(WARM, "ActiveState") == "active"):
        board.run("systemctl", "reset-failed")
        restart(board, WARM, API)
    assert ask(board, "Where are the logs?") == LOGS
    wait_active(board)  # it is told up to a second after it can answer
    board.turn_page()
    yield
    if not hub.is_up:
        hub.come_back()


def restart(board: Machine, *units: str) -> str:
    return board.run("systemctl", "restart", *units, check=False, timeout_s=90)


def number_of_restarts(board: Machine) -> int:
    return int(board.property_of(API, "NRestarts"))


def wait_active(board: Machine) -> None:
    wait_until(lambda: board.property_of(API, "ActiveState") == "active", timeout_s=60)


def status_of(board: Machine, unit: str) -> str:
    return board.property_of(unit, "StatusText")


def health(board: Machine) -> dict:
    return httpx2.get(f"http://{board.address}:8000/health").json()


def test_the_first_start_downloads_loads_and_answers(board: Machine):
    assert board.property_of(API, "ActiveState") == "active"
    assert board.property_of(WARM, "ActiveState") == "active"
    assert status_of(board, WARM) == f"{MODEL} is complete and intact in {MODEL_DIR}"
    at_rest = f"ready: {MODEL} on cpu, 8 slots; 0 running, 0 waiting"
    wait_until(lambda: status_of(board, API) == at_rest)  # it is told once a second
    assert ask(board, "Where are the logs?") == LOGS


def test_every_sense_has_been_tried_before_it_is_ready(board: Machine):
    restart(board, API)
    for path in ("text", "image", "audio"):
        assert f"event=warmed_up path={path}" in board.journal(API)


def test_the_token_is_in_no_environment_and_no_log(board: Machine):
    seen = board.shell(
        f"systemctl show {API} {WARM}; systemctl cat {API} {WARM}; journalctl --no-pager;"
        "for process in /proc/[0-9]*; do tr '\\0' '\\n' <$process/environ 2>/dev/null; done; true"
    )
    assert "hf_token" in seen
    assert TOKEN not in seen
    assert board.shell("stat -c '%U %a' /etc/gemma3n/hf_token") == "root 600\n"


def test_the_server_is_confined(board: Machine):
    status = board.shell(f"cat /proc/{worker(board)}/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert board.run("stat", "-c", "%U", f"/proc/{worker(board)}") == "gemma3n\n"
    board.shell("touch /root/private /home/private")
    inside = f"nsenter -t {worker(board)} -m --"
    for directory in ("/usr", "/etc", "/opt/gemma3n"):
        assert "Read-only" in board.shell(f"{inside} touch {directory}/x 2>&1", check=False)
    assert "private" not in board.shell(f"{inside} ls /root /home 2>&1", check=False)
    assert board.shell(f"{inside} touch /models/x && rm /models/x") == ""


def worker(board: Machine) -> str:
    return board.shell(f"pgrep -P $(systemctl show -P MainPID {API})").strip()


def test_a_killed_worker_has_the_server_started_again(board: Machine):
    before = number_of_restarts(board)
    board.run("kill", "-9", worker(board))
    wait_until(lambda: number_of_restarts(board) == before + 1)
    wait_active(board)
    assert "was sent SIGKILL" in board.journal(API)
    assert ask(board, "Where are the logs?") == LOGS


def is_ready(board: Machine) -> bool:
    try:
        return httpx2.get(f"http://{board.address}:8000/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_killed_server_is_started_again(board: Machine):
    before = number_of_restarts(board)
    board.shell(f"kill -9 $(systemctl show -P MainPID {API})")
    wait_until(lambda: number_of_restarts(board) == before + 1)
    wait_active(board)
    assert ask(board, "Where are the logs?") == LOGS


@pytest.fixture
def drop_in(board: Machine) -> Iterator[Path]:
    """A drop-in for the server, for one test."""
    path = board.root / "etc/systemd/system/gemma3n-api.service.d/of-the-test.conf"
    yield path
    path.unlink(missing_ok=True)
    board.shell("rm -f /run/gemma3n/hang; systemctl daemon-reload")


def test_a_hung_step_is_ended_by_the_watchdog(board: Machine, drop_in: Path):
    fault = board.root / "etc/fault/sitecustomize.py"
    fault.parent.mkdir(exist_ok=True)
    fault.write_text(FAULT)
    drop_in.write_text("[Service]\nEnvironment=PYTHONPATH=/etc/fault\n")
    board.shell(f"systemctl daemon-reload && systemctl restart {API} && touch /run/gemma3n/hang")
    with pytest.raises(openai.APIError):
        ask(board, "Where are the logs?")
    wait_until(lambda: number_of_restarts(board) == 1, timeout_s=60)
    journal = board.journal(API)
    assert "event=restart_asked_for" in journal
    assert "in hang" in journal  # where the engine's thread was
    board.shell("rm /run/gemma3n/hang")
    wait_active(board)
    assert ask(board, "Where are the logs?") == LOGS


def test_a_server_that_says_nothing_is_ended_by_the_watchdog(board: Machine, drop_in: Path):
    drop_in.write_text("[Service]\nWatchdogSec=8\n")
    board.shell(f"systemctl daemon-reload && systemctl restart {API}")
    time.sleep(10)  # longer than it may be silent
    assert number_of_restarts(board) == 0
    board.run("kill", "-STOP", worker(board))
    wait_until(lambda: number_of_restarts(board) == 1, timeout_s=60)
    assert "Watchdog timeout" in board.run("journalctl", "--no-pager", "--unit", API)
    wait_active(board)


def test_a_stop_lets_what_runs_finish(board: Machine):
    answers: list[str] = []
    count = threading.Thread(
        target=lambda: answers.append(ask(board, "Count from 1 to 100.", max_tokens=400))
    )
    count.start()
    wait_until(lambda: health(board)["queue"]["running"] == 1)
    board.run("systemctl", "stop", API)
    count.join(60)
    assert answers == [" ".join(map(str, range(1, 101)))]
    assert board.property_of(API, "Result") == "success"
    assert board.property_of(API, "ActiveState") == "inactive"


def test_a_corrupt_file_is_found_at_the_next_start_and_fetched_again(board: Machine, hub: Hub):
    board.shell(f"printf x | dd of={MODEL_DIR}/model.safetensors bs=1 seek=3000000 conv=notrunc 2>/dev/null")
    hub.fake.requests.clear()
    restart(board, WARM, API)
    assert "model.safetensors is corrupt: its checksum is not the recorded one" in board.journal(WARM)
    assert {request.path.rsplit("/", 1)[1] for request in hub.fake.requests} == {"model.safetensors"}
    assert ask(board, "Where are the logs?") == LOGS


def test_a_corrupt_file_that_cannot_be_fetched_is_not_served(board: Machine, hub: Hub):
    board.shell(f"printf x | dd of={MODEL_DIR}/config.json bs=1 seek=3 conv=notrunc 2>/dev/null")
    board.shell(f"systemctl stop {API}")
    hub.go_away()
    board.run("systemctl", "restart", "--no-block", WARM)
    wait_until(lambda: "config.json is corrupt" in board.journal(WARM))
    board.run("systemctl", "stop", WARM)
    assert "config.json" not in board.run("ls", MODEL_DIR).split()
    # Without its dependency, which would try for minutes.
    board.run("systemctl", "start", "--job-mode=ignore-dependencies", API)
    assert status_of(board, API) == f"idle: the first request loads {MODEL}"
    hub.come_back()
    assert ask(board, "Where are the logs?") == LOGS


def test_a_wrong_token_is_named_and_the_api_says_it_too(board: Machine, hub: Hub):
    board.shell(f"rm -r {MODEL_DIR}; printf hf_wrong >/etc/gemma3n/hf_token")
    try:
        restart(board, WARM)
        assert board.property_of(WARM, "Result") == "exit-code"
        assert "HF_TOKEN" in status_of(board, WARM)
        assert "hf_wrong" not in board.journal(WARM)
        restart(board, API)
        assert board.property_of(API, "ActiveState") == "active"
        assert status_of(board, API) == f"idle: the first request loads {MODEL}"
        with pytest.raises(openai.APIStatusError, match="HF_TOKEN") as refused:
            ask(board, "Where are the logs?")
        assert (refused.value.status_code, refused.value.code) == (503, "model_download_failed")
    finally:
        board.shell(f"printf %s {TOKEN} >/etc/gemma3n/hf_token")


def test_a_full_disk_is_named(board: Machine):
    board.shell(f"systemctl stop {API} {WARM}; mount -t tmpfs -o size=4M,mode=777 tmpfs /models")
    try:
        restart(board, WARM)
        assert board.property_of(WARM, "Result") == "exit-code"
        assert "not enough disk space" in status_of(board, WARM)
        assert "MODELS_DIR" in status_of(board, WARM)
    finally:
        board.shell("umount /models")


def test_a_network_lost_in_mid_download_is_waited_for(board: Machine, hub: Hub):
    board.shell(f"systemctl stop {API} {WARM}; rm -r {MODEL_DIR}")
    hub.fake.trouble["model.safetensors"].append(Stall(2_000_000))
    board.run("systemctl", "start", "--no-block", WARM)
    assert hub.fake.has_stalled.wait(30)
    board.unplug()
    hub.fake.resume()
    wait_until(lambda: "lost the connection" in board.journal(WARM), timeout_s=60)
    board.plug_in()
    wait_until(lambda: board.property_of(WARM, "ActiveState") == "active", timeout_s=60)
    [first, *_, again] = hub.fake.ranges("model.safetensors")
    assert first is None
    assert int(again.removeprefix("bytes=").rstrip("-")) > 1_000_000  # it went on, and did not begin again


def test_a_model_that_cannot_be_loaded_is_tried_again_ever_later(board: Machine):
    board.shell(f"cp -r {MODEL_DIR} /models/broken; rm /models/broken/gemma3n-manifest.json")
    board.shell("echo no weights >/models/broken/model.safetensors")
    board.shell("cp /etc/gemma3n/gemma3n.env /etc/gemma3n/sound.env")
    board.shell("echo MODEL_NAME=/models/broken >>/etc/gemma3n/gemma3n.env")
    try:
        board.run("systemctl", "restart", "--no-block", API)
        wait_until(lambda: wait_of(board) == "20" and "waits 20 s" in status_of(board, API), timeout_s=240)
        assert number_of_restarts(board) == 3
        assert board.property_of(API, "ActiveState") == "activating"
        assert "model_load_failed" in board.journal(API)
    finally:
        board.shell("mv /etc/gemma3n/sound.env /etc/gemma3n/gemma3n.env; rm -r /models/broken")
    restart(board, API)
    assert ask(board, "Where are the logs?") == LOGS
    # By hand it does not wait: between the start of the unit and that of its program is next to nothing.
    began, ran = (
        int(board.property_of(API, f"{what}TimestampMonotonic")) for what in ("InactiveExit", "ExecMainStart")
    )
    assert 0 <= ran - began < 10_000_000
    assert wait_of(board) == ""


def wait_of(board: Machine) -> str:
    return board.shell("cat /run/gemma3n/wait 2>/dev/null || true").strip()


def test_after_a_reboot_it_answers_again(board: Machine):
    board.reboot()
    wait_until(lambda: is_ready(board), timeout_s=60)
    assert ask(board, "Where are the logs?") == LOGS
