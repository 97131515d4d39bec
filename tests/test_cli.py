import os
import sys
from pathlib import Path

import pytest

from gemma3n_appliance.cli import main
from gemma3n_appliance.settings import Settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("GEMMA3N_PORT", "eighty")
    assert main(["download"]) == 2
    assert "GEMMA3N_PORT='eighty'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["download", "--fast"]])
def test_a_wrong_command_line_prints_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: gemma3n-appliance" in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma3n_appliance.cli.ensure_model", interrupted)
    assert main(["download"]) == 130
    assert capsys.readouterr().err == "gemma3n-appliance: interrupted\n"


def test_serve_becomes_gunicorn(monkeypatch: pytest.MonkeyPatch):
    class BecameAnotherProgramError(Exception):
        pass

    def execv(program: str, arguments: list[str]) -> None:
        raise BecameAnotherProgramError(program, *arguments[1:3])

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(BecameAnotherProgramError) as became:
        main(["serve"])
    assert became.value.args == (sys.executable, "-m", "gunicorn")
