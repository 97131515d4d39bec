"""Playbooks over ssh: from boards that have nothing yet to a fleet that serves, is upgraded and removed."""

import concurrent.futures
import hashlib
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

from gemma3n_appliance.host import key_file
from tests.deploy.base_root import have_sudo_ask
from tests.deploy.conftest import MODEL, ROOT, TOKEN, Hub, ask, cache
from tests.deploy.fleet import (
    SETTINGS,
    SUDO_PASSWORD,
    Clients,
    Fleet,
    Played,
    Torch,
    another_release,
    recap,
    release_of,
    streamed,
)
from tests.deploy.lab import Lab, Machine
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def torch() -> Torch:
    return Torch.found()


@pytest.fixture(scope="session")
def wheelhouse(torch: Torch) -> Path:
    """Wheels for a board that asks no index."""
    version = ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    python = subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
    pins = (ROOT / f"requirements/python{python}.txt").read_text()
    folder = cache() / f"wheels-{hashlib.sha256((pins + str(torch)).encode()).hexdigest()[:12]}"
    if not folder.exists():
        for other in cache().glob("wheels-*"):
            shutil.rmtree(other)
        partial = folder.with_suffix(".partial")
        environment = os.environ | {"MACHINE": os.uname().machine}
        subprocess.run(
            [ROOT / "bin/wheelhouse", python, partial, *torch.for_pip], env=environment, check=True
        )
        partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def bare(
    tmp_path_factory: pytest.TempPathFactory, lab: Lab, base: Path, hub: Hub, torch: Torch, wheelhouse: Path
) -> Fleet:
    """Boards as they come; the last knows no registry, has a sudo that asks, and models elsewhere."""
    boards = [lab.machine(name, base) for name in ("board1", "board2", "board3")]
    fleet = Fleet(tmp_path_factory.mktemp("controller"), lab, boards, lab.machine("gateway", base), torch)
    (boards[2].root / "etc/pip.conf").write_text(
        "[global]\nno-compile = no\nindex-url = http://127.0.0.1:1/\n"
    )
    for sources in (boards[2].root / "etc/apt").rglob("*sources*"):
        if sources.is_file():
            sources.write_text("deb http://127.0.0.1:1/debian bookworm main\n")
    have_sudo_ask(boards[2].root, SUDO_PASSWORD)
    fleet.prepare(
        board3={
            "gemma3n_runtime_wheelhouse": str(wheelhouse),
            "ansible_become_password": "{{ lab_sudo_password }}",
            "gemma3n_model_dir": "/srv/models",
        }
    )
    return fleet


@dataclass
class FirstRuns:
    """What check mode said of bare boards, then the real run, and how often that downloaded the weights."""

    checked: Played
    installed_by_check: list[str]
    provisioned: Played
    num_downloads: int


@pytest.fixture(scope="session")
def first_runs(bare: Fleet, hub: Hub) -> FirstRuns:
    checked = bare.run("provision", "--check", "--diff")
    installed = [board.name for board in bare.boards if (board.root / "opt/gemma3n").exists()]
    provisioned = bare.run("provision")
    return FirstRuns(checked, installed, provisioned, len(hub.fake.ranges("model.safetensors")))


@pytest.fixture
def fleet(bare: Fleet, first_runs: object) -> Fleet:
    """Boards that serve."""
    return bare


def gateway_client(fleet: Fleet, **options: object) -> openai.OpenAI:
    url = f"http://{fleet.gateway.address}:8000/v1"
    return openai.OpenAI(**{"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 60} | options)


def test_check_mode_is_right_before_anything_is_installed(first_runs: FirstRuns):
    checked = first_runs.checked
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "gemma3n-api.service would be installed" in checked.stdout
    assert first_runs.installed_by_check == []


def test_boards_serve_after_one_command(fleet: Fleet, first_runs: FirstRuns):
    provisioned = first_runs.provisioned
    assert provisioned.returncode == 0, provisioned.stdout + provisioned.stderr
    for board in fleet.boards:
        assert board.property_of("gemma3n-api", "ActiveState") == "active"
        assert "journalctl" in ask(board, "Where are the logs?")
    assert first_runs.num_downloads == 1  # the others have it from the first


def test_the_token_is_where_only_the_services_find_it(fleet: Fleet, first_runs: FirstRuns):
    for secret in (TOKEN, SUDO_PASSWORD):
        for played in (first_runs.checked, first_runs.provisioned):
            assert secret not in played.stdout + played.stderr

    def found_on(board: Machine, secret: str) -> str:
        places = "/etc /opt/gemma3n/releases /run /var /tmp /home /root /proc/*/environ /proc/*/cmdline"
        pattern = f"[{secret[0]}]{secret[1:]}"
        return board.shell(
            f"grep -rl '{pattern}' {places} 2>/dev/null || true\n"
            f"if journalctl --no-pager --all | grep -q '{pattern}'; then echo the journal; fi"
        )

    for board in fleet.boards:
        assert found_on(board, SUDO_PASSWORD) == ""
        found = found_on(board, TOKEN)
        # Only a service itself sees its credentials, systemd.exec(5).
        credentials = [f"/run/credentials/gemma3n-{unit}.service/hf_token" for unit in ("api", "cache-warm")]
        assert {"/etc/gemma3n/hf_token"} <= set(found.split()) <= {"/etc/gemma3n/hf_token", *credentials}
        assert board.run("stat", "--format", "%U %a", "/etc/gemma3n/hf_token").strip() == "root 600"


def test_a_second_run_changes_nothing(fleet: Fleet):
    again = fleet.run("provision")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {host: counts["changed"] for host, counts in recap(again).items()} == dict.fromkeys(
        ("board1", "board2", "board3", "gateway"), 0
    )
    # All as wanted: none had to be looked at by itself.
    assert re.search(r"PLAY \[Bring settings to boards that serve.*\n+skipping: no hosts", again.stdout)


def test_a_board_says_that_all_is_well(fleet: Fleet):
    subjects = [
        "settings",
        "board",
        "clock",
        "disk",
        "model",
        "memory",
        "torch",
        "server",
    ]  # not how hot it is
    told = fleet.boards[2].run("/usr/local/sbin/gemma3n-appliance", "check", *subjects)
    assert "FAULT" not in told
    assert "L4T 36.4.3" in told
    assert "ready, 0 running" in told


def test_the_fleet_is_told_in_one_table(fleet: Fleet):
    for board in fleet.boards:
        ask(board, "Where are the logs?")
    told = fleet.run("fleet-status")
    assert told.returncode == 0, told.stdout + told.stderr
    shown = told.stdout.split("PLAY RECAP")[0]
    table = [line for line in shown.splitlines() if line.strip().startswith("board")]
    assert table[0].split() == (
        ["board", "release", "model", "state", "tokens/s", "running", "waiting", "hottest", "MB", "free"]
    )
    for board, line in zip(fleet.boards, table[1:], strict=True):
        name, _, model, state, tokens_per_s, *_ = line.split()
        assert (name, model, state) == (board.name, "google/gemma-3n-e4b", "ready")
        assert float(tokens_per_s) > 0


def test_a_log_is_read_over_ssh(fleet: Fleet):
    read = fleet.run("logs", "board2", "--lines", "200", "--no-pager")
    assert read.returncode == 0, read.stderr
    assert "path=/v1/chat/completions" in read.stdout


def test_the_turns_of_a_conversation_go_to_one_board(fleet: Fleet):
    answered_by: dict[int, set[str]] = {}
    with gateway_client(fleet) as client:
        for number in range(8):
            messages = [{"role": "user", "content": f"Count from {number} to {number + 3}."}]
            for _ in range(2):
                before = fleet.num_served()
                answer = client.chat.completions.create(model="gemma3n", messages=messages, max_tokens=8)
                after = fleet.num_served()
                answered_by.setdefault(number, set()).update(b for b in after if after[b] > before[b])
                messages += [
                    {"role": "assistant", "content": answer.choices[0].message.content},
                    {"role": "user", "content": "And the other way round?"},
                ]
    assert {len(boards) for boards in answered_by.values()} == {1}
    assert len(set.union(*answered_by.values())) > 1


def test_a_board_that_is_busy_passes_a_conversation_on(fleet: Fleet):
    before = fleet.num_served()
    with gateway_client(fleet) as client, concurrent.futures.ThreadPoolExecutor(6) as six:
        answers = list(six.map(lambda _: streamed(client), range(6)))
    after = fleet.num_served()
    assert answers == [list(range(1, 31))] * 6
    assert Counter(after[board] > before[board] for board in after)[True] > 1


def test_a_gateway_without_boards_says_so_as_openai_would(fleet: Fleet):
    for board in fleet.boards:
        fleet.gateway.run("/usr/local/sbin/gemma3n-gateway", "take-out", board.name)
    try:
        with gateway_client(fleet) as client, pytest.raises(openai.InternalServerError) as refusal:
            streamed(client)
    finally:
        for board in fleet.boards:
            fleet.gateway.run("/usr/local/sbin/gemma3n-gateway", "put-in", board.name)
    assert refusal.value.status_code == 503
    assert refusal.value.code == "no_board_ready"
    assert int(refusal.value.response.headers["retry-after"]) > 0


def test_a_board_is_out_only_when_what_began_before_a_reload_has_ended(fleet: Fleet):
    command = "/usr/local/sbin/gemma3n-gateway"
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Length: 200000\r\n\r\n"

    def are_out(*boards: Machine) -> list[bool]:
        tries = [
            fleet.gateway.shell(f"timeout 3 {command} take-out {b.name} >/dev/null 2>&1; echo $?")
            for b in boards
        ]
        return [tried.strip() == "0" for tried in tries]

    try:
        with socket.create_connection((fleet.gateway.address, 8000)) as slow:
            slow.sendall(head.encode() + bytes(100_000))
            wait_until(lambda: " 1 running" in fleet.gateway.run(command, "status"), 30)
            fleet.gateway.run("systemctl", "reload", "haproxy")
            wait_until(lambda: " 1 running" not in fleet.gateway.run(command, "status"), 30)
            outs = are_out(*fleet.boards)
            assert sorted(outs) == [False, True, True]
        [busy] = [board for board, is_out in zip(fleet.boards, outs, strict=True) if not is_out]
        wait_until(lambda: are_out(busy) == [True], 30)
    finally:
        for board in fleet.boards:
            fleet.gateway.run(command, "put-in", board.name)


def test_a_board_that_lost_its_model_has_it_from_the_controller(fleet: Fleet, tmp_path: Path):
    board = fleet.boards[1]
    board.shell(f"rm -r /models/{MODEL.replace('/', '--')}")
    by_hand = {"gemma3n_model_from": "controller", "gemma3n_model_controller_dir": str(tmp_path)}
    brought = fleet.run("provision", "--tags", "model", "--limit", "board1,board2", **by_hand)
    assert brought.returncode == 0, brought.stdout + brought.stderr
    assert "is intact" in board.shell("/opt/gemma3n/current/bin/gemma3n-appliance download --check")


def test_a_board_that_stops_or_dies_is_not_missed(fleet: Fleet):
    board = fleet.boards[0]

    def is_up() -> bool:
        return "board1 UP" in " ".join(fleet.gateway.run("/usr/local/sbin/gemma3n-gateway", "status").split())

    try:
        with Clients(fleet.gateway) as stopping:
            wait_until(lambda: stopping.num_answered > 1, 60)
            board.run("systemctl", "stop", "gemma3n-api")
            answered = stopping.num_answered
            wait_until(lambda: stopping.num_answered > answered + 4, 60)
        board.run("systemctl", "start", "gemma3n-api")
        wait_until(is_up, 60)
        with Clients(fleet.gateway) as dying:
            wait_until(lambda: dying.num_answered > 1, 60)
            board.run("systemctl", "kill", "--signal=KILL", "gemma3n-api")
            answered = dying.num_answered
            wait_until(lambda: dying.num_answered > answered + 4, 60)
    finally:
        board.run("systemctl", "start", "gemma3n-api")
        wait_until(is_up, 60)
    assert stopping.failures == []
    assert len(dying.failures) <= 3  # what each client had begun


def test_the_gateway_has_a_page_of_its_own(fleet: Fleet):
    page = fleet.gateway.shell("curl --silent http://127.0.0.1:8404/")
    assert all(board.name in page for board in fleet.boards)


def test_the_gateway_speaks_tls(fleet: Fleet, tmp_path: Path):
    key, certificate, both = tmp_path / "key", tmp_path / "certificate", tmp_path / "both"
    name = ["-subj", "/CN=gateway", "-addext", f"subjectAltName=IP:{fleet.gateway.address}"]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *name]
    subprocess.run([*new, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    secured = fleet.run("provision", "--limit", "gateway", gemma3n_gateway_certificate=str(both))
    try:
        assert secured.returncode == 0, secured.stdout + secured.stderr
        assert "PRIVATE KEY" not in secured.stdout
        with (
            httpx2.Client(verify=ssl.create_default_context(cafile=certificate)) as trusting,
            gateway_client(
                fleet, base_url=f"https://{fleet.gateway.address}:8000/v1", http_client=trusting
            ) as client,
        ):
            assert streamed(client) == list(range(1, 31))
    finally:
        plain = fleet.run("provision", "--limit", "gateway")
    assert plain.returncode == 0, plain.stdout + plain.stderr


def test_settings_that_cannot_be_are_refused_before_anything_is_changed(fleet: Fleet):
    settings = SETTINGS | {"NUM_SLOTS": "many"}
    options = ["--tags", "service", "--limit", "board2"]
    refused = fleet.run("provision", *options, gemma3n_service_settings=settings)
    assert refused.returncode != 0
    assert "NUM_SLOTS=" in refused.stdout
    assert "(see .env.example)" in " ".join(refused.stdout.split())
    assert recap(refused)["board2"]["changed"] == 0


def test_an_upgrade_loses_no_request(fleet: Fleet, tmp_path: Path):
    at_first = release_of(fleet.boards[0])
    two_of_three = ["--limit", "board1,board2"]

    # An upgrade leaves settings as they are, whatever the inventory says meanwhile.
    not_yet = {"gemma3n_service_settings": SETTINGS | {"GEMMA3N_PORT": 8009}}
    with Clients(fleet.gateway) as clients:
        upgraded = fleet.run("upgrade", *two_of_three, **another_release(tmp_path, "0.9.1"), **not_yet)
    assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
    assert [release_of(board) for board in fleet.boards] == ["0.9.1", "0.9.1", at_first]
    assert (clients.failures, clients.num_answered > 10) == ([], True)

    with Clients(fleet.gateway) as clients:
        broken = fleet.run("upgrade", *two_of_three, **another_release(tmp_path, "0.9.2", broken=True))
    assert broken.returncode != 0
    assert "does not serve on board1" in broken.stdout
    assert "a release that does not start" in broken.stdout
    assert [release_of(board) for board in fleet.boards] == ["0.9.1", "0.9.1", at_first]
    assert (clients.failures, clients.num_answered > 10) == ([], True)

    # Nothing is left of that upgrade, so that nothing goes back.
    kept = fleet.run("rollback", *two_of_three)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert [release_of(board) for board in fleet.boards] == ["0.9.1", "0.9.1", at_first]
    for board in fleet.boards[:2]:
        board.shell("ln -sfn $(readlink /opt/gemma3n/current) /opt/gemma3n/wanted")

    # The third is as an upgrade leaves it that is interrupted when it has stopped the server there.
    third = fleet.boards[2]
    third.shell("mkdir /opt/gemma3n/releases/0.1; ln -s releases/0.1 /opt/gemma3n/previous")
    third.shell("ln -s releases/0.1 /opt/gemma3n/wanted")
    fleet.gateway.run("/usr/local/sbin/gemma3n-gateway", "take-out", third.name)
    third.run("systemctl", "stop", "gemma3n-api")
    with Clients(fleet.gateway) as clients:
        back = fleet.run("rollback")
    assert back.returncode == 0, back.stdout + back.stderr
    assert [release_of(board) for board in fleet.boards] == [at_first] * 3
    assert (clients.failures, clients.num_answered > 10) == ([], True)
    status = fleet.gateway.run("/usr/local/sbin/gemma3n-gateway", "status")
    assert [line.split()[1] for line in status.splitlines()] == ["UP"] * 3

    nothing_left = fleet.run("rollback")
    assert nothing_left.returncode == 0, nothing_left.stdout + nothing_left.stderr
    assert "board1 has no release before" in nothing_left.stdout
    assert [release_of(board) for board in fleet.boards] == [at_first] * 3
    third.shell("rm -r /opt/gemma3n/releases/0.1 /opt/gemma3n/previous /opt/gemma3n/wanted")


@pytest.mark.last(1)
def test_settings_and_keys_reach_boards_one_by_one_without_a_lost_request(fleet: Fleet, tmp_path: Path):
    options = ["--tags", "service", "--limit", "board1,board2"]
    settings = SETTINGS | {"NUM_SLOTS": 2, "GEMMA3N_PORT": 8001}
    path = tmp_path / "keys"
    key = key_file.add(path, "clients")

    def provision(*options: str) -> Played:
        keys = path.read_text().splitlines()
        return fleet.run(
            "provision", *options, gemma3n_service_settings=settings, gemma3n_service_api_keys=keys
        )

    with Clients(fleet.gateway, key) as clients:
        changed = provision(*options)
        assert changed.returncode == 0, changed.stdout + changed.stderr
        served = fleet.num_served()["board1"]
        wait_until(lambda: fleet.num_served()["board1"] > served, 60)
    assert clients.failures == []
    assert changed.stdout.count("PLAY [Bring settings to boards that serve") == 2
    for board in fleet.boards[:2]:
        health = httpx2.get(f"http://{board.address}:8001/health").json()
        assert health["queue"]["slots"] == 2
        assert statuses_of(board, key, "none") == [200, 401]
        comment, _, keys = board.run("cat", "/etc/gemma3n/fleet_keys").partition("\n")
        assert (comment[0], keys) == ("#", path.read_text())

    started = fleet.boards[0].property_of("gemma3n-api", "ActiveEnterTimestampMonotonic")
    later = key_file.add(path, "later")
    key_file.revoke(path, "clients")
    changed = provision("--tags", "service,gateway", "--limit", "board1,gateway")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert fleet.boards[0].shell("journalctl --no-pager --all | grep -c '[B]earer' || true").strip() == "0"
    assert statuses_of(fleet.boards[0], key, later) == [401, 200]
    assert fleet.boards[0].property_of("gemma3n-api", "ActiveEnterTimestampMonotonic") == started


def statuses_of(board: Machine, *keys: str) -> list[int]:
    """How a board answers whoever has which key."""
    url = f"http://{board.address}:8001/v1/models"
    return [httpx2.get(url, headers={"Authorization": f"Bearer {key}"}).status_code for key in keys]


@pytest.mark.last(2)
def test_nothing_is_left_where_all_is_removed(fleet: Fleet):
    board, gateway = fleet.boards[1], fleet.gateway
    removed = fleet.run("play", "uninstall.yml", "--limit", "board2,gateway", "--tags", "all,purge")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    for machine in (board, gateway):
        left = machine.shell("find / -xdev -name '*gemma3n*' -not -path '/proc/*'")
        assert left.split() == ["/etc/gemma3n-lab-model"]
        assert "gemma3n" not in machine.shell("cat /etc/passwd /etc/group")
    assert board.shell("ls /models") == ""
    assert gateway.property_of("haproxy", "ActiveState") == "inactive"
    assert gateway.shell("ls /etc/haproxy").split() == ["errors", "haproxy.cfg"]
    assert "gemma3n" not in gateway.shell("cat /etc/haproxy/haproxy.cfg")
