"""The role jetson_host over ssh: what it changes on a board, and brings back."""

from pathlib import Path

import pytest

from tests.deploy.fleet import Fleet, recap
from tests.deploy.lab import JETPACK_6_2, Lab, Machine

JETPACK_5 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64"

# What a Jetson has and the stand-in has not.
NVPMODEL_CONF = """
# < POWER_MODEL ID=id NAME=name >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
"""
NVPMODEL = """#!/bin/sh
if [ "$1" = -m ]; then echo "$2" >/var/lib/nvpmodel-mode; fi
mode=$(cat /var/lib/nvpmodel-mode 2>/dev/null || echo 0)
printf 'NV Power Mode: some name\\n%s\\n' "$mode"
"""
# NVIDIA's asks before it overwrites a file, and takes no answer for no.
JETSON_CLOCKS = """#!/bin/sh
echo "$*" >>/var/lib/jetson-clocks-calls
if [ "$1" = --store ]; then [ ! -e "$2" ] && touch "$2"; fi
"""
NVZRAMCONFIG = """[Service]
Type=oneshot
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
# A container cannot swap.
SWAPON = """#!/bin/sh
case $1 in --show*) cat /var/lib/swaps 2>/dev/null || true ;; *) echo "$1" >>/var/lib/swaps ;; esac
"""
SWAPOFF = """#!/bin/sh
grep -qxF "$1" /var/lib/swaps && sed -i "\\#^$1\\$#d" /var/lib/swaps
"""
COMMANDS = {
    "sbin/nvpmodel": NVPMODEL,
    "bin/jetson_clocks": JETSON_CLOCKS,
    "local/sbin/swapon": SWAPON,
    "local/sbin/swapoff": SWAPOFF,
}
SWAP_FILE = "/var/swapfile-gemma3n"


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, lab: Lab, base: Path) -> Fleet:
    """A board as it comes, but for NVIDIA's commands, which are imitated."""
    board = lab.machine("jetson", base)
    (board.root / "etc/nvpmodel.conf").write_text(NVPMODEL_CONF)
    (board.root / "etc/systemd/system/nvzramconfig.service").write_text(NVZRAMCONFIG)
    for name, text in COMMANDS.items():
        (board.root / "usr" / name).write_text(text)
        (board.root / "usr" / name).chmod(0o755)
    board.run("systemctl", "enable", "nvzramconfig.service")
    fleet = Fleet(tmp_path_factory.mktemp("controller"), lab, [board])
    fleet.prepare()
    return fleet


def state(board: Machine) -> list[str]:
    """Power mode, target, zram and swap."""
    swap = f"/usr/local/sbin/swapon --show=NAME; grep -o ^{SWAP_FILE} /etc/fstab; ls {SWAP_FILE} 2>/dev/null"
    asked = f"nvpmodel -q; systemctl get-default; systemctl is-enabled nvzramconfig; {swap}; true"
    return board.shell(asked).splitlines()[1:]


def test_a_jetpack_that_is_too_old_is_refused(fleet: Fleet):
    release = fleet.boards[0].root / "etc/nv_tegra_release"
    release.write_text(JETPACK_5 + "\n")
    try:
        refused = fleet.run("provision", "--tags", "host")
    finally:
        release.write_text(JETPACK_6_2 + "\n")
    assert refused.returncode != 0
    assert "JetPack 5 (L4T 35.4.1)" in refused.stdout
    assert "Flash JetPack 6 or 7" in " ".join(refused.stdout.split())


def test_a_board_is_left_as_it_was(fleet: Fleet):
    [board] = fleet.boards
    before = state(board)
    wanted = {"jetson_host_power_mode": "MAXN_SUPER", "jetson_host_max_clocks": True}
    wanted |= {"jetson_host_headless": True, "jetson_host_no_zram": True, "jetson_host_swap_mb": 1}
    unknown = fleet.run("provision", "--tags", "host", jetson_host_power_mode="MAXN")
    assert unknown.returncode != 0
    assert "has no power mode MAXN; it has 15W, MAXN_SUPER" in " ".join(unknown.stdout.split())

    changed, again = (fleet.run("provision", "--tags", "host", **wanted) for _ in range(2))
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert recap(again)["jetson"]["changed"] == 0, again.stdout
    assert state(board) == ["2", "multi-user.target", "disabled", *[SWAP_FILE] * 3]
    assert board.run("systemctl", "is-enabled", "gemma3n-clocks").strip() == "enabled"
    board.run("systemctl", "restart", "gemma3n-clocks")

    removed = fleet.run("play", "uninstall.yml")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert state(board) == before == ["0", before[1], "enabled"]
    calls = (board.root / "var/lib/jetson-clocks-calls").read_text().splitlines()
    assert [call.split()[0] if call else "" for call in calls] == 2 * ["--store", "", "--restore"]
    left = board.shell("find / -xdev -name '*gemma3n*' -not -path '/proc/*'")
    assert left.split() == ["/etc/gemma3n-lab-model"]
