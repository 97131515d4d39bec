"""``gemma3n-appliance warm``, as gemma3n-cache-warm.service runs it."""

import shutil

import pytest

from tests.fakes.hub import FakeHub
from tests.fakes.notify_socket import NotifySocket
from tests.host.appliance import NEEDED, REPO, WEIGHTS, Appliance, checkpoint
from tests.waiting import wait_until

FILES = checkpoint()


def test_an_empty_disk_is_filled(appliance: Appliance):
    warmed = appliance.run("warm")
    assert (warmed.returncode, appliance.present()) == (0, NEEDED)
    assert f"{REPO} is complete and intact in {appliance.model_dir}\n" in warmed.stderr


def test_an_intact_model_is_read_without_the_network(complete: Appliance):
    assert complete.run("warm", offline=True).returncode == 0


def test_a_corrupt_file_is_removed_and_fetched_again(complete: Appliance, hub: FakeHub):
    (complete.model_dir / WEIGHTS).write_bytes(FILES[WEIGHTS][:-1] + b"\0")
    warmed = complete.run("warm")
    assert warmed.returncode == 0
    assert f"{WEIGHTS} is corrupt: its checksum is not the recorded one; it is removed" in warmed.stderr
    assert (complete.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert {r.path.rsplit("/", 1)[1] for r in hub.requests if "resolve" in r.path} == {WEIGHTS}


def test_a_corrupt_file_that_cannot_be_fetched_is_not_there_to_be_served(complete: Appliance, hub: FakeHub):
    hub.stop()
    (complete.model_dir / "config.json").write_bytes(FILES["config.json"].swapcase())
    with NotifySocket(complete.home) as manager:
        warmed = complete.run("warm", impatient=True, NOTIFY_SOCKET=manager.address)
        assert warmed.returncode == 1
        assert not (complete.model_dir / "config.json").exists()
        wait_until(lambda: manager.told[-1].startswith("STATUS=failed: "))


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_directory_of_the_owners_is_read_and_never_changed(complete: Appliance, with_manifest: bool):
    copy = shutil.copytree(complete.model_dir, complete.home / "copy")
    if not with_manifest:
        (copy / "gemma3n-manifest.json").unlink()
    (copy / WEIGHTS).write_bytes(FILES[WEIGHTS][:-1] + b"\0")
    warmed = complete.run("warm", offline=True, MODEL_NAME=str(copy))
    assert (copy / WEIGHTS).exists()
    assert warmed.returncode == (1 if with_manifest else 0)
    if with_manifest:
        assert f"{WEIGHTS} is corrupt" in warmed.stderr
        assert f"copy it to {copy} once more" in warmed.stderr


def test_systemd_is_shown_how_it_ended(complete: Appliance):
    with NotifySocket(complete.home) as manager:
        assert complete.run("warm", NOTIFY_SOCKET=manager.address).returncode == 0
        shown = f"STATUS={REPO} is complete and intact in {complete.model_dir}"
        wait_until(lambda: manager.told[-1:] == [shown])
