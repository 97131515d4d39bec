import os
import sys
from pathlib import Path

import pytest

from gemma3n_appliance.cli import main
from gemma3n_appliance.host.key_file import KeyRing
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


def test_a_key_is_made_listed_and_revoked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    assert main(["key", "new", "laptop", "--max-concurrent", "2", "--max-body-mb", "8"]) == 0
    shown = capsys.readouterr()
    assert KeyRing(tmp_path / "keys").find(shown.out.strip())
    assert "kept nowhere" in shown.err
    assert main(["key", "new", "laptop"]) == 1
    assert "already" in capsys.readouterr().err
    assert main(["key", "list"]) == 0
    assert capsys.readouterr().out == "laptop max_concurrent=2 max_body_mb=8\n"
    assert main(["key", "revoke", "laptop"]) == 0
    assert main(["key", "revoke", "laptop"]) == 1
    assert "no key laptop" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["new", "laptop"], ["list"], ["revoke", "laptop"]])
def test_without_a_file_for_keys_their_commands_say_what_to_set(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["key", *arguments]) == 1
    assert "API_KEYS_FILE" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1000000"])
def test_a_limit_of_a_key_is_a_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str
):
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(SystemExit):
        main(["key", "new", "laptop", f"--max-concurrent={limit}"])
    assert "--max-concurrent" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_a_server_does_not_start_with_keys_that_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "keys").write_text("nonsense\n")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    assert main(["serve"]) == 1
    assert "line 1" in capsys.readouterr().err


def test_whoever_changes_a_playbook_s_keys_by_hand_is_warned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "keys").write_text("# Written by Ansible: change gemma3n_service_api_keys.\n")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    assert main(["key", "new", "laptop"]) == 0
    assert "until the next playbook" in capsys.readouterr().err
    assert main(["key", "revoke", "laptop"]) == 0
    assert "until the next playbook" in capsys.readouterr().err
