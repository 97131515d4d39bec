import json
import subprocess

import pytest

from tests.ansible.modules import load

RELEASE = "# R{} (release), REVISION: {}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8"


@pytest.fixture
def facts(monkeypatch):
    return load(monkeypatch, "roles/jetson_host/library/jetson_facts.py")


@pytest.mark.parametrize(
    ("major", "revision", "l4t", "jetpack"),
    [
        ("32", "7.1", "32.7.1", "4"),
        ("35", "4.1", "35.4.1", "5"),
        ("36", "2.0", "36.2.0", "6"),
        ("36", "3.0", "36.3.0", "6.0"),
        ("36", "4.0", "36.4.0", "6.1"),
        ("36", "4.3", "36.4.3", "6.2"),
        ("36", "4.4", "36.4.4", "6.2.1"),
        ("36", "4.7", "36.4.7", "6.2.1"),
        ("36", "5.0", "36.5.0", "6.2.2"),
        ("38", "2.0", "38.2.0", "7.0"),
        ("38", "2.2", "38.2.2", "7.0"),
        ("38", "4.0", "38.4.0", "7.1"),
        ("39", "0.0", "39.0.0", "7.2"),
        ("28", "2.0", "28.2.0", None),
    ],
)
def test_a_release_of_l4t_belongs_to_a_jetpack(facts, major, revision, l4t, jetpack):
    assert facts.parse_release(RELEASE.format(major, revision)) == l4t
    assert facts.jetpack_of(l4t) == jetpack


@pytest.mark.parametrize(
    ("board", "family"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "orin"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "thor"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "xavier"),
        ("NVIDIA Jetson Nano Developer Kit", "nano"),
        ("Raspberry Pi 5", None),
    ],
)
def test_a_board_belongs_to_a_family(facts, board, family):
    assert facts.family_of(board) == family


def answering(answers):
    """A ``subprocess.run`` for a machine with these commands."""

    def run(command, **_):
        if command[0] not in answers:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, answers[command[0]], "")

    return run


@pytest.mark.parametrize(
    ("commands", "release", "l4t", "is_sbsa"),
    [
        ({"nvidia-smi": "GPU 0: Orin (nvgpu) (UUID: 1)"}, RELEASE.format("36", "4.3"), "36.4.3", False),
        ({"nvidia-smi": "GPU 0: NVIDIA Thor (UUID: 1)"}, RELEASE.format("38", "2.0"), "38.2.0", True),
        ({"dpkg-query": "38.4.0-20251231163028"}, "", "38.4.0", False),
        ({}, "", None, False),
    ],
)
def test_what_is_found_out(facts, monkeypatch, tmp_path, commands, release, l4t, is_sbsa):
    monkeypatch.setattr(subprocess, "run", answering(commands))
    (tmp_path / "release").write_text(release)
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (tmp_path / "cuda").write_text(json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}))
    found = facts.find_out(*(str(tmp_path / name) for name in ("release", "model", "cuda")))
    assert found.pop("memory_mb") > 0
    assert found == {
        "is_jetson": l4t is not None,
        "board": "NVIDIA Jetson Orin Nano",
        "family": "orin",
        "l4t": l4t,
        "l4t_major": int(l4t.split(".")[0]) if l4t else None,
        "jetpack": facts.jetpack_of(l4t) if l4t else None,
        "cuda": "12.6",
        "is_sbsa": is_sbsa,
    }


@pytest.mark.parametrize("text", ["", "{", '{"cuda": {}}', "[]"])
def test_a_cuda_that_says_nothing_is_unknown(facts, tmp_path, text):
    (tmp_path / "cuda").write_text(text)
    assert facts.cuda_version(str(tmp_path / "cuda")) is None
