import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma3n_appliance.settings import Settings
from tests.fakes.hub import FakeHub, Repo
from tests.host.appliance import REPO, Appliance, checkpoint


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repos[REPO] = Repo()
        hub.repos[REPO].commit(checkpoint())
        yield hub


@pytest.fixture
def appliance(tmp_path: Path, hub: FakeHub) -> Iterator[Appliance]:
    (tmp_path / "home").mkdir()
    appliance = Appliance(tmp_path, hub)
    yield appliance
    appliance.switch_off()


@pytest.fixture(scope="session")
def complete_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models directory after a download, to copy from."""
    with FakeHub() as hub:
        hub.repos[REPO] = Repo()
        hub.repos[REPO].commit(checkpoint())
        appliance = Appliance(tmp_path_factory.mktemp("complete"), hub)
        assert appliance.download().returncode == 0
        return appliance.model_dir.parent


@pytest.fixture
def complete(appliance: Appliance, complete_model: Path) -> Appliance:
    """The appliance with its model downloaded already, from another incarnation of the hub."""
    shutil.copytree(complete_model, appliance.model_dir.parent)
    return appliance
