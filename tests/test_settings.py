import re
from ipaddress import ip_network
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
        ("LOG_LEVEL", "loud"),
        ("MODELS_DIR", "~nobody-of-that-name/models"),
        ("MAX_CONCURRENT_PER_KEY", "0"),
        ("REMOTE_MEDIA_NETWORKS", "everywhere"),
        ("REMOTE_MEDIA_NETWORKS", "192.168.1.7/24"),
        ("CORS_ORIGINS", "example.org"),
        ("CORS_ORIGINS", "https://example.org/path"),
        ("CORS_ORIGINS", "https://example.org,https://two.example/"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"{name}='{value}'.*\.env\.example"):
        load()


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("vscode-webview://abc", ("vscode-webview://abc",)),
    ],
)
def test_origins_are_separated_by_commas(monkeypatch, value, origins):
    monkeypatch.setenv("CORS_ORIGINS", value)
    assert load().cors_origins == origins


def test_networks_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("REMOTE_MEDIA_NETWORKS", "192.168.1.0/24, fd00::/8")
    assert load().remote_media_networks == (ip_network("192.168.1.0/24"), ip_network("fd00::/8"))


def test_a_refused_token_is_not_repeated(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("GEMMA3N_PORT", "0")
    with pytest.raises(SettingsError) as refusal:
        load()
    assert "hf_secret" not in str(refusal.value)
    monkeypatch.delenv("GEMMA3N_PORT")
    assert "hf_secret" not in repr(load())


@pytest.mark.parametrize("token", ["hf_secret\n", " hf_secret\r\n", "hf_secret"])
def test_a_token_is_taken_without_the_space_around_it(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    assert load().hf_token.get_secret_value() == "hf_secret"


@pytest.mark.parametrize(
    "token", ["hf_se cret", "hf_se\ncret", "hf_se\x01cret", "hf_sécret", "hf_se\u2028cret"]
)
def test_what_cannot_be_a_token_is_refused_and_not_repeated(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SettingsError, match=r"^HF_TOKEN: .* copy it again") as refusal:
        load()
    assert "cret" not in str(refusal.value)


def test_an_env_file_with_windows_line_ends_is_understood(monkeypatch, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfGEMMA3N_PORT=8100\r\nHF_TOKEN=\r\nLOG_LEVEL=WARNING\r\n")
    monkeypatch.setenv("DEVICE", "cpu\r")
    settings = load()
    assert (settings.gemma3n_port, settings.log_level, settings.device) == (8100, "warning", "cpu")
    assert not settings.hf_token


def test_an_env_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / ".env").write_bytes("# Schlüssel\nHF_TOKEN=hf_secret".encode("latin-1"))
    with pytest.raises(SettingsError, match=rf"{tmp_path}/\.env is not UTF-8 text: save it as UTF-8"):
        load()


def test_an_env_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".env").touch()
    monkeypatch.setattr("builtins.open", denied)  # root may read everything
    with pytest.raises(SettingsError, match=rf"cannot read {tmp_path}/\.env \(Permission denied\)"):
        load()


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("0.0.0.0", "0.0.0.0:8000"),
        ("::", "[::]:8000"),
        ("[::1]", "[::1]:8000"),
        ("board.local", "board.local:8000"),
    ],
)
def test_the_address_to_listen_on_is_written_as_gunicorn_reads_it(monkeypatch, host, bind):
    monkeypatch.setenv("GEMMA3N_HOST", host)
    assert load().bind == bind


def test_the_models_may_be_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS_DIR", "~/models")
    assert load().models_dir == tmp_path / "models"


def test_the_environment_goes_before_the_env_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("GEMMA3N_PORT=8100\nMAX_LENGTH=100\n")
    monkeypatch.setenv("GEMMA3N_PORT", "8200")
    settings = load()
    assert (settings.gemma3n_port, settings.max_length) == (8200, 100)


@pytest.mark.parametrize(
    ("name", "repo_id", "directory"),
    [
        ("google/gemma-3n-e4b", "google/gemma-3n-E4B-it", "/models/google--gemma-3n-E4B-it"),
        ("google/gemma-3n-e2b", "google/gemma-3n-E2B-it", "/models/google--gemma-3n-E2B-it"),
        ("google/gemma-3n-E4B", "google/gemma-3n-E4B", "/models/google--gemma-3n-E4B"),
        ("someone/tuned", "someone/tuned", "/models/someone--tuned"),
        ("/srv/model", "/srv/model", "/srv/model"),
        ("./model", "./model", "model"),
    ],
)
def test_a_model_name_means_a_repository_and_a_directory(monkeypatch, name, repo_id, directory):
    monkeypatch.setenv("MODEL_NAME", name)
    settings = load()
    assert (settings.repo_id, settings.model_dir) == (repo_id, Path(directory))


def test_a_credential_of_systemd_is_a_setting_that_the_environment_goes_before(monkeypatch, tmp_path):
    (tmp_path / "hf_token").write_text("hf_of_the_board\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load().hf_token.get_secret_value() == "hf_of_the_board"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_shell")
    assert load().hf_token.get_secret_value() == "hf_of_the_shell"


def test_the_reference_engine_takes_no_fewer_bits(monkeypatch):
    monkeypatch.setenv("ENGINE", "reference")
    monkeypatch.setenv("QUANTIZATION", "int4")
    with pytest.raises(SettingsError, match=r"QUANTIZATION='int4'.*set ENGINE=native"):
        load()


def test_caches_are_where_the_desktop_has_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/owner")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert load().cache_dir == Path("/home/owner/.cache/gemma3n-appliance")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/gemma3n")
    assert load().cache_dir == Path("/var/cache/gemma3n/gemma3n-appliance")
    monkeypatch.setenv("CACHE_DIR", "~/kept")
    assert load().cache_dir == Path("/home/owner/kept")
