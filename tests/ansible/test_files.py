import os

import pytest

from tests.ansible.modules import AnsibleModule, load


@pytest.fixture
def module(monkeypatch):
    module = load(monkeypatch, "library/gemma3n_files.py")
    monkeypatch.setattr(module, "ROOT", os.getuid())
    return module


def run(module, *files, check_mode=False):
    unset = {"content": None, "executable": False, "secret": None, "copy_of": None, "wanted": True}
    AnsibleModule.params = {"files": [unset | file for file in files]}
    AnsibleModule.check_mode = check_mode
    module.main()
    return AnsibleModule.told


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.fixture
def files(tmp_path):
    """One of each kind; the command is to be copied, the last two are to go."""
    (tmp_path / "source").write_text("#!/bin/sh\n")
    (tmp_path / "source").chmod(0o755)
    (tmp_path / "old").write_text("old")
    (tmp_path / "all/that").mkdir(parents=True)
    (tmp_path / "all/that/is_there").write_text("")
    return [
        {"path": str(tmp_path / "folder/settings"), "content": "A=1\n"},
        {"path": str(tmp_path / "script"), "content": "#!/bin/sh\n", "executable": True},
        {"path": str(tmp_path / "token"), "secret": "hf_secret"},
        {"path": str(tmp_path / "command"), "copy_of": str(tmp_path / "source")},
        {"path": str(tmp_path / "old"), "content": "old", "wanted": False},
        {"path": str(tmp_path / "all"), "wanted": False},
    ]


def test_files_come_and_go_and_then_stay(module, files, tmp_path):
    paths = [file["path"] for file in files]
    assert run(module, *files, check_mode=True)["paths"] == paths
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "old", "source"]

    assert run(module, *files)["paths"] == paths
    found = {path.name: (path.read_text(), mode(path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "source": ("#!/bin/sh\n", 0o755),
        "settings": ("A=1\n", 0o644),
        "script": ("#!/bin/sh\n", 0o755),
        "token": ("hf_secret", 0o600),
        "command": ("#!/bin/sh\n", 0o755),
    }
    again = run(module, *files)
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])


def test_a_change_is_shown_but_for_secrets(module, tmp_path):
    settings, token = tmp_path / "settings", tmp_path / "token"
    settings.write_text("A=1\n")
    token.write_text("hf_old")
    told = run(module, {"path": str(settings), "content": "A=2\n"}, {"path": str(token), "secret": "hf_new"})
    assert [(shown["before"], shown["after"]) for shown in told["diff"]] == [
        ("A=1\n", "A=2\n"),
        (module.NOT_SHOWN, module.NOT_SHOWN),
    ]
    assert "hf_" not in str(told)


def test_ansible_is_told_what_to_mask(module, tmp_path):
    run(module, {"path": str(tmp_path / "token"), "secret": "hf_secret"})
    assert AnsibleModule.argument_spec["files"]["options"]["secret"]["no_log"] is True


@pytest.mark.parametrize("secret", ["hf_secret\n", "hf_\\secret"])
def test_what_ansible_could_not_mask_is_refused(module, tmp_path, secret):
    with pytest.raises(SystemExit):
        run(module, {"path": str(tmp_path / "token"), "secret": secret})
    assert "line break, a quote or a backslash" in AnsibleModule.told["failure"]
    assert "hf_" not in AnsibleModule.told["failure"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_that_was_killed_leaves_no_secret_behind(module, tmp_path, wanted):
    token = {"path": str(tmp_path / "token"), "secret": "hf_secret"}
    run(module, token)
    (tmp_path / ".token.gemma3n-new").write_text("hf_half")
    run(module, token | {"wanted": wanted})
    assert [path.name for path in tmp_path.iterdir()] == ["token"] * wanted


@pytest.mark.parametrize("spoil", ["mode", "link", "owner"])
def test_more_than_the_content_counts(module, monkeypatch, tmp_path, spoil):
    settings, elsewhere = tmp_path / "settings", tmp_path / "elsewhere"
    file = {"path": str(settings), "content": "A=1\n"}
    run(module, file)
    if spoil == "mode":
        settings.chmod(0o666)
    elif spoil == "link":
        settings.rename(elsewhere)
        settings.symlink_to(elsewhere)
    else:
        monkeypatch.setattr(module, "ROOT", os.getuid() + 1)
        assert run(module, file, check_mode=True)["changed"]
        return
    assert run(module, file)["changed"]
    assert (settings.is_symlink(), mode(settings)) == (False, 0o644)
    assert not run(module, file)["changed"]


def test_a_file_that_cannot_be_written_is_named(module, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit):
        run(module, {"path": str(tmp_path / "folder"), "content": ""})
    assert str(tmp_path / "folder") in AnsibleModule.told["failure"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
