"""The project's own files keep their promises to whoever reads them first."""

import ast
import os
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 does not know whose a package is")
def test_every_import_is_of_a_declared_dependency():
    declared = {re.match(r"[\w-]+", name)[0] for name in PROJECT["project"]["dependencies"]}
    # A Jetson has a torch of its own, elsewhere bin/setup brings it; openai only examines the demo.
    imported = third_party_imports() - {"torch", "torchvision", "openai"}
    origins = packages_distributions()
    assert {
        name
        for name in imported
        if not declared & {origin.replace("_", "-").lower() for origin in origins[name]}
    } == set()


def third_party_imports() -> set[str]:
    names = set()
    for module in (ROOT / "gemma3n_appliance").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("library", "homes"), [("torch", {"model", "demo", "bench"}), ("falcon", {"api", "bootstrap"})]
)
def test_the_import_contracts_leave_no_module_out(library, homes):
    package = ROOT / "gemma3n_appliance"
    modules = {path.stem for path in package.iterdir() if path.stem not in ("__init__", "__pycache__")}
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    held = {
        name.removeprefix("gemma3n_appliance.")
        for contract in contracts
        if library in contract.get("forbidden_modules", [])
        for name in contract["source_modules"]
    }
    assert held == modules - homes
