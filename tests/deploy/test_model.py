"""The role gemma3n_model over ssh, and what uninstalling leaves, on a board with a release and no model."""

from pathlib import Path

import pytest

from tests.deploy.base_root import have_sudo_ask
from tests.deploy.conftest import MODEL, TOKEN, Hub, boot, install_release, readme_script
from tests.deploy.fleet import SUDO_PASSWORD, Fleet
from tests.deploy.lab import Lab


# Not the module's: what comes last runs after other modules.
@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, lab: Lab, base: Path, hub: Hub) -> Fleet:
    """One board, whose sudo asks for a password and whose models are elsewhere."""
    board = boot(lab, base, "models")
    have_sudo_ask(board.root, SUDO_PASSWORD)
    install_release(board)
    board.shell(readme_script(2))
    fleet = Fleet(tmp_path_factory.mktemp("controller"), lab, [board])
    fleet.prepare(
        models={"ansible_become_password": "{{ lab_sudo_password }}", "gemma3n_model_dir": "/srv/models"}
    )
    return fleet


def test_a_wrong_token_is_told(fleet: Fleet):
    wrong = {"gemma3n_model_from": "hub", "gemma3n_model_hf_token": "hf_wrong"}
    refused = fleet.run("provision", "--tags", "model", **wrong)
    assert refused.returncode != 0
    assert "does not accept HF_TOKEN" in " ".join(refused.stdout.split())
    assert "hf_wrong" not in refused.stdout + refused.stderr
    # The folder it began is empty, and has no manifest that would tell whose it is.
    [board] = fleet.boards
    purged = fleet.run("provision", "--tags", "purge")
    assert (purged.returncode, board.shell("ls /srv/models")) == (0, ""), purged.stdout + purged.stderr


def test_a_model_can_come_from_the_controller_and_be_purged(fleet: Fleet, hub: Hub, tmp_path: Path):
    [board] = fleet.boards
    before = len(hub.fake.ranges("model.safetensors"))
    by_hand = {"gemma3n_model_from": "controller", "gemma3n_model_controller_dir": str(tmp_path)}
    brought = fleet.run("provision", "--tags", "model", **by_hand)
    assert brought.returncode == 0, brought.stdout + brought.stderr
    for secret in (TOKEN, SUDO_PASSWORD):
        assert secret not in brought.stdout + brought.stderr
    assert len(hub.fake.ranges("model.safetensors")) == before + 1
    place = f"/srv/models/{MODEL.replace('/', '--')}"
    checked = board.shell(
        "MODELS_DIR=/srv/models /opt/gemma3n/current/bin/gemma3n-appliance download --check"
    )
    assert "is intact" in checked
    assert board.shell(f"stat --format %U {place}/model.safetensors").strip() == "gemma3n"

    purged = fleet.run("provision", "--tags", "purge")
    assert (purged.returncode, board.shell("ls /srv/models")) == (0, ""), purged.stdout + purged.stderr


@pytest.mark.last(1)
def test_models_are_spared_where_all_else_is_removed(fleet: Fleet):
    [board] = fleet.boards
    board.shell("mkdir -p /srv/models/mine; echo {} >/srv/models/mine/gemma3n-manifest.json")
    removed = fleet.run("play", "uninstall.yml")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    left = board.shell("find / -xdev -name '*gemma3n*' -not -path '/proc/*' -not -path '/src/*'")
    assert sorted(left.split()) == ["/etc/gemma3n-lab-model", "/srv/models/mine/gemma3n-manifest.json"]
    assert "gemma3n" not in board.shell("cat /etc/passwd /etc/group")

    # Once more is no mistake, and takes what was spared.
    everything = fleet.run("play", "uninstall.yml", "--tags", "all,purge")
    assert everything.returncode == 0, everything.stdout + everything.stderr
    assert board.shell("ls /srv/models") == ""
