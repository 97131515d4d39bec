"""The units as files. That they work is for tests/deploy to show, on booted machines."""

import re
from pathlib import Path

import pytest

from gemma3n_appliance.cli import _parser
from gemma3n_appliance.host.worker import DRAIN_S, GRACEFUL_SHUTDOWN_S

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
API = SYSTEMD / "gemma3n-api.service"


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_unit_starts_a_command_that_there_is(unit: Path):
    [command] = values(unit, "ExecStart")
    program, *arguments = command.split()
    assert program == "/opt/gemma3n/current/bin/gemma3n-appliance"
    assert _parser().parse_args(arguments).command


def test_the_server_has_time_to_drain():
    assert DRAIN_S < GRACEFUL_SHUTDOWN_S + 15 < int(values(API, "TimeoutStopSec")[0])


def test_nothing_hides_the_gpu():
    for key in ("PrivateDevices", "ProtectClock", "DeviceAllow", "DevicePolicy", "MemoryDenyWriteExecute"):
        assert not values(API, key), key


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_no_secret_is_in_an_environment(unit: Path):
    assert "HF_TOKEN" not in "".join(values(unit, "Environment"))
