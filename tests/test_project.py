"""The project's own files keep their promises to whoever reads them first."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "bin").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_what_it_does_and_how_to_call_it(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# ")
    assert "bin/" in script.read_text().split("set -eu")[0] or script.name == "wheel-tags"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run_unless_it_is_sourced(script):
    assert os.access(script, os.X_OK) == (script.name != "wheel-tags")


@pytest.mark.parametrize("word", ["bin/demo", "bin/test", "bin/serve", "base_url", "LICENSE"])
def test_the_readme_names_what_a_newcomer_needs(word):
    assert word in (ROOT / "README.md").read_text()


def test_the_readme_lists_every_setting():
    readme = (ROOT / "README.md").read_text()
    example = (ROOT / ".env.example").read_text()
    names = [line.split("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("#")]
    assert [name for name in names if f"`{name}`" not in readme] == []
