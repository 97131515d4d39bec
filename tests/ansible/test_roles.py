"""Roles keep their promises, as far as one sees without running them."""

import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import yaml

from gemma3n_appliance.host.manifest import MANIFEST_NAME
from gemma3n_appliance.settings import MODEL_ALIASES, Settings
from tests.ansible.modules import ANSIBLE

ROLES = sorted((ANSIBLE / "roles").iterdir())


def defaults(role: Path) -> dict[str, object]:
    return yaml.safe_load((role / "defaults/main.yml").read_text())


def options(role: Path) -> dict[str, dict[str, object]]:
    return yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]


def is_computed(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_is_documented_is_what_is_there(role):
    documented, there = options(role), defaults(role)
    assert list(documented) == list(there)
    literal = {name: value for name, value in there.items() if not is_computed(value)}
    assert {name: o["default"] for name, o in documented.items() if "default" in o} == literal


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_secrets_are_not_logged(role):
    for name, option in options(role).items():
        assert option.get("no_log", False) == name.endswith("_token")
    for path in (role / "tasks").glob("*.yml"):
        for task in yaml.safe_load(path.read_text()):
            for inner in [task, *task.get("block", [])]:
                content = str(inner.get("ansible.builtin.copy", {}))
                if "_token" in content or "_certificate }}" in content:
                    assert inner.get("no_log") is True, inner["name"]
    known = yaml.safe_load((role / "vars/main.yml").read_text())
    if role.name == "gemma3n_service":
        written = known["gemma3n_service_configuration"]
        assert {file["path"] for file in written if "secret" in file} == {"/etc/gemma3n/hf_token"}
        assert {file["path"] for file in written if "_token" in file.get("content", "")} == set()


def test_a_torch_that_cannot_be_imported_is_explained(tmp_path):
    """By what proves a release, before anything imports the package's own torch code."""
    tasks = yaml.safe_load((ANSIBLE / "roles/gemma3n_runtime/tasks/make_release.yml").read_text())
    [proof] = [task for task in tasks if "script" in task.get("vars", {})]
    script = proof["vars"]["script"].replace("{{ parts | join(', ') }}", "sys; print('fits together')")
    (tmp_path / "torch.py").write_text("raise ImportError('libcusparseLt.so.0: cannot open shared object')")
    proved = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"],
        capture_output=True,
        text=True,
        cwd=ANSIBLE.parent,
    )
    assert (proved.returncode, proved.stderr) == (1, "")
    assert "torch cannot be imported" in proved.stdout
    assert "libcusparseLt.so.0" in proved.stdout


def test_the_models_defaults_are_the_settings_own():
    role = defaults(ANSIBLE / "roles/gemma3n_model")
    settings = Settings(_env_file=None)
    assert role["gemma3n_model_name"] == settings.model_name
    assert role["gemma3n_model_revision"] == settings.model_revision
    assert role["gemma3n_model_dir"] == str(settings.models_dir)


def test_names_that_two_places_know_are_the_same():
    known = yaml.safe_load((ANSIBLE / "roles/gemma3n_model/vars/main.yml").read_text())
    assert known["gemma3n_model_short_names"] == MODEL_ALIASES
    assert MANIFEST_NAME in (ANSIBLE / "roles/gemma3n_model/tasks/purge.yml").read_text()


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ({}, {}),
        (
            {"NUM_SLOTS": 2, "TEMPERATURE": 0.5, "ACCEPT_ANY_MODEL": True},
            {"num_slots": 2, "temperature": 0.5, "accept_any_model": True},
        ),
        ({"MODEL_NAME": r'/models/a "b" c\d'}, {"model_name": r'/models/a "b" c\d'}),
    ],
)
def test_the_settings_that_are_written_are_understood(tmp_path, given, understood):
    template = (ANSIBLE / "roles/gemma3n_service/templates/gemma3n.env.j2").read_text()
    environment = jinja2.Environment(trim_blocks=True, autoescape=False)  # as Ansible has it
    (tmp_path / "env").write_text(environment.from_string(template).render(gemma3n_service_environment=given))
    settings = Settings(_env_file=tmp_path / "env")
    assert settings == Settings(_env_file=None).model_copy(update=understood)


def test_pages_name_files_that_are_there():
    page = (ANSIBLE / "README.md").read_text()
    for name in set(re.findall(r"`(?:bin|ansible|systemd)/[\w./-]+`", page)):
        assert (ANSIBLE.parent / name.strip("`")).exists(), name
