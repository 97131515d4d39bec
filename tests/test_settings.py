import re
from pathlib import Path

import pytest

from gemma3n_appliance.settings import Settings, SettingsError, load

EXAMPLE = Path(__file__).parents[1] / ".env.example"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def listed() -> dict[str, str]:
    return dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_lists_every_setting_and_no_other():
    assert listed().keys() == {name.upper() for name in Settings.model_fields}


def test_the_example_states_the_defaults(monkeypatch):
    defaults = load()
    for name, value in listed().items():
        monkeypatch.setenv(name, value)
    assert load() == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEMMA3N_PORT", "99999"),
        ("GEMMA3N_PORT", "http"),
        ("TEMPERATURE", "hot"),
        ("MAX_LENGTH", "0"),
        ("DTYPE", "float16"),
        ("ENGINE", "warp"),
        ("NUM_SLOTS", "0"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"{name}='{value}'.*\.env\.example"):
        load()


def test_a_refused_token_is_not_repeated(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("GEMMA3N_PORT", "0")
    with pytest.raises(SettingsError) as refusal:
        load()
    assert "hf_secret" not in str(refusal.value)
    monkeypatch.delenv("GEMMA3N_PORT")
    assert "hf_secret" not in repr(load())


def test_the_environment_goes_before_the_env_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("GEMMA3N_PORT=8100\nMAX_LENGTH=100\n")
    monkeypatch.setenv("GEMMA3N_PORT", "8200")
    settings = load()
    assert (settings.gemma3n_port, settings.max_length) == (8200, 100)


@pytest.mark.parametrize(
    ("name", "repo_id", "directory"),
    [
        ("google/gemma-3n-e4b", "google/gemma-3n-E4B-it", "/models/google--gemma-3n-E4B-it"),
        ("google/gemma-3n-E2B", "google/gemma-3n-E2B-it", "/models/google--gemma-3n-E2B-it"),
        ("someone/tuned", "someone/tuned", "/models/someone--tuned"),
        ("/srv/model", "/srv/model", "/srv/model"),
        ("./model", "./model", "model"),
    ],
)
def test_a_model_name_means_a_repository_and_a_directory(monkeypatch, name, repo_id, directory):
    monkeypatch.setenv("MODEL_NAME", name)
    settings = load()
    assert (settings.repo_id, settings.model_dir) == (repo_id, Path(directory))
