import pytest

from gemma3n_appliance.settings import Settings
from tests.host.appliance import REPO, WEIGHTS, Appliance, checkpoint

FILES = checkpoint()


def test_an_intact_model_passes_without_the_network(complete: Appliance):
    checked = complete.download_offline("--check")
    assert (checked.returncode, checked.stdout) == (0, f"{complete.model_dir} is intact\n")


def test_every_bad_file_is_named(complete: Appliance):
    (complete.model_dir / "tokenizer.model").unlink()
    (complete.model_dir / "tokenizer.json").write_bytes(b"{")
    (complete.model_dir / "config.json").write_bytes(FILES["config.json"].swapcase())
    (complete.model_dir / WEIGHTS).write_bytes(FILES[WEIGHTS][:-1] + b"\0")
    checked = complete.download_offline("--check")
    assert checked.returncode == 1
    assert sorted(checked.stdout.splitlines()) == [
        "config.json is corrupt: its checksum is not the recorded one",
        f"{WEIGHTS} is corrupt: its checksum is not the recorded one",
        "tokenizer.json has 1 bytes instead of 18",
        "tokenizer.model is missing",
    ]
    assert "remove the corrupt files and run `gemma3n-appliance download`" in checked.stderr


def test_a_model_of_another_revision_does_not_pass(complete: Appliance):
    checked = complete.download_offline("--check", MODEL_REVISION="v2")
    assert checked.returncode == 1
    assert f"holds {REPO} at main, not {REPO} at v2" in checked.stdout


@pytest.mark.parametrize("manifest", [None, '{"repo": "ac'])
def test_a_directory_without_a_manifest_has_nothing_to_compare_with(
    appliance: Appliance, manifest: str | None
):
    appliance.model_dir.mkdir(parents=True)
    if manifest:
        (appliance.model_dir / "gemma3n-manifest.json").write_text(manifest)
    for environment in ({}, {"MODEL_NAME": str(appliance.model_dir)}):
        checked = appliance.download_offline("--check", **environment)
        assert checked.returncode == 1
        assert "there is nothing to compare with" in checked.stderr


def test_a_copied_model_is_checked_where_it_is(complete: Appliance):
    copy = complete.model_dir.rename(complete.home / "copy")
    assert Settings(model_name=str(copy)).is_local
    assert complete.download_offline("--check", MODEL_NAME=str(copy)).returncode == 0
