"""API keys at rest."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.errors import KeyFileError
from gemma3n_appliance.host import key_file
from gemma3n_appliance.host.key_file import KeyRing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "etc" / "keys"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(path):
    key = key_file.add(path, "laptop")
    assert re.fullmatch(r"sk-g3n-[\w-]{43}", key)
    assert key.removeprefix("sk-g3n-") not in path.read_text()
    assert re.fullmatch(r"laptop sha256:[0-9a-f]{64}\n", path.read_text())
    assert KeyRing(path).find(key).name == "laptop"
    assert key not in repr(KeyRing(path).find(key))


def test_no_two_keys_are_the_same(path):
    assert len({key_file.add(path, f"k{i}") for i in range(20)}) == 20


@pytest.mark.parametrize("presented", ["", "sk-g3n-", "x" * 100_000, "schlüssel", "\udce4", "\0"])
def test_what_is_no_key_finds_none(path, presented):
    key_file.add(path, "laptop")
    assert KeyRing(path).find(presented) is None


def test_each_key_is_found_with_its_own_limits(path):
    keys = {
        name: key_file.add(path, name, **limits)
        for name, limits in {
            "a": {},
            "b": {"max_concurrent": 2},
            "c": {"max_body_mb": 8, "max_concurrent": 1},
        }.items()
    }
    ring = KeyRing(path)
    found = {name: ring.find(key) for name, key in keys.items()}
    assert [(name, record.max_concurrent, record.max_body_mb) for name, record in found.items()] == [
        ("a", None, None),
        ("b", 2, None),
        ("c", 1, 8),
    ]
    assert found["c"].limits == {"max_concurrent": 1, "max_body_mb": 8}


def test_a_change_counts_from_the_next_request_on(path):
    first = key_file.add(path, "first")
    ring = KeyRing(path)
    second = key_file.add(path, "second")
    assert ring.find(second).name == "second"
    key_file.revoke(path, "first")
    assert ring.find(first) is None
    assert ring.find(second).name == "second"


def test_comments_and_empty_lines_stay(path):
    path.parent.mkdir()
    path.write_text("# Ours.\n\n")
    key_file.add(path, "a")
    key_file.add(path, "b")
    with path.open("a") as file:
        file.write("   # the end")
    key_file.revoke(path, "a")
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# Ours.", ""]
    assert lines[2].startswith("b sha256:")
    assert lines[3:] == ["   # the end"]


def test_a_file_keeps_its_mode_and_a_new_one_can_be_read_by_all(path):
    key_file.add(path, "a")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o640)
    key_file.add(path, "b")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [*path.parent.iterdir()] == [path]


def test_where_a_file_breaks_the_keys_stay_and_the_log_says_so_once(path):
    key = key_file.add(path, "laptop")
    ring = KeyRing(path)
    with capture_logs() as logs:
        path.write_text("nonsense\n")
        assert ring.find(key)
        assert ring.find(key)
    assert [line["event"] for line in logs] == ["keys_not_reloaded"]
    assert "line 1" in logs[0]["reason"]
    path.unlink()
    newer = key_file.add(path, "newer")
    assert ring.find(newer)
    assert ring.find(key) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("laptop", "no line of a key"),
        ("laptop sha256:abc", "no line of a key"),
        (f"laptop sha256:{'a' * 64} max_concurrent=0", "no line of a key"),
        (f"laptop sha256:{'a' * 64} colour=red", "no line of a key"),
        (f"lap/top sha256:{'a' * 64}", "no line of a key"),
        (f"laptop md5:{'a' * 64}", "no line of a key"),
        (f"first sha256:{'a' * 64}", "two keys first"),
    ],
)
def test_a_line_that_is_none_is_named(path, line, says):
    key_file.add(path, "first")
    with path.open("a") as file:
        file.write(f"# what follows is wrong\n{line}\n")
    with pytest.raises(KeyFileError, match=f"line 3: .*{says}"):
        key_file.read(path)
    with pytest.raises(KeyFileError):
        key_file.add(path, "second")


def test_where_there_are_no_keys_nobody_gets_in_until_there_is_one(path):
    with capture_logs() as logs:
        ring = KeyRing(path)
        assert ring.find("") is None
    assert [line["event"] for line in logs] == ["no_api_keys"]
    key = key_file.add(path, "first")
    assert ring.find(key)
    path.unlink()
    assert ring.find(key) is None
    path.write_bytes(b"")
    assert KeyRing(path).find("") is None


def test_what_cannot_be_read_is_no_file_without_keys(path):
    path.mkdir(parents=True)
    with pytest.raises(KeyFileError, match="let the server's user read it"):
        KeyRing(path)
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="UTF-8"):
        KeyRing(path)


def test_once_a_file_may_be_read_again_it_counts_as_it_is(path, monkeypatch):
    key = key_file.add(path, "first")
    ring = KeyRing(path)
    key_file.revoke(path, "first")
    known = Path.read_text

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with capture_logs() as logs:
        assert ring.find(key)
        assert ring.find(key)
    assert [line["event"] for line in logs] == ["keys_not_reloaded"]
    monkeypatch.setattr(Path, "read_text", known)
    path.chmod(0o640)
    assert ring.find(key) is None


def test_keys_that_are_made_at_the_same_time_are_all_there(path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda name: key_file.add(path, name), [f"k{i}" for i in range(24)]))
    ring = KeyRing(path)
    assert all(ring.find(key) for key in keys)


def test_a_file_keeps_its_owner_and_the_name_that_it_is_linked_by(path, tmp_path, monkeypatch):
    key_file.add(path, "a")
    owners = []
    monkeypatch.setattr(os, "chown", lambda _file, user, group: owners.append((user, group)))
    link = tmp_path / "link"
    link.symlink_to(path)
    key_file.add(link, "b")
    assert link.is_symlink()
    assert [record.name for record in key_file.read(path)] == ["a", "b"]
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


@pytest.mark.parametrize("name", ["", "a b", "a#b", "ä", "a/b", "x" * 65, "a\n"])
def test_a_name_is_one_word(path, name):
    with pytest.raises(KeyFileError, match="name"):
        key_file.add(path, name)
    assert not path.exists()


def test_names_are_taken_once_and_only_what_is_there_is_revoked(path):
    key_file.add(path, "laptop")
    with pytest.raises(KeyFileError, match="already"):
        key_file.add(path, "laptop")
    with pytest.raises(KeyFileError, match="no key desk"):
        key_file.revoke(path, "desk")
    with pytest.raises(KeyFileError, match="no key laptop"):
        key_file.revoke(path.with_name("other"), "laptop")


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="Cannot write"):
        key_file.add(tmp_path / "file" / "keys", "laptop")
