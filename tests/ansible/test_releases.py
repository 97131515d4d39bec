import os
from pathlib import Path

import pytest

from tests.ansible.modules import AnsibleModule, load


@pytest.fixture
def releases(monkeypatch):
    return load(monkeypatch, "library/gemma3n_releases.py")


@pytest.fixture
def home(tmp_path):
    """Five releases, the oldest first; the first two on one runtime, the others on another."""
    for number in range(1, 6):
        release = tmp_path / f"releases/0.{number}"
        packages = release / "lib/python3.10/site-packages"
        packages.mkdir(parents=True)
        runtime = tmp_path / f"runtimes/{'old' if number < 3 else 'new'}"
        runtime.mkdir(parents=True, exist_ok=True)
        (packages / "runtime.pth").write_text(f"{runtime}/lib/python3.10/site-packages\n")
        os.utime(release, (number, number))
    return tmp_path


def ask(home, releases, *, keep=None, spare=(), check_mode=False):
    AnsibleModule.params = {
        "home": str(home),
        "keep": keep,
        "spare": [str(home / "releases" / s) for s in spare],
    }
    AnsibleModule.check_mode = check_mode
    releases.main()
    return AnsibleModule.told


def left(home, releases, *, current, previous=None, **options):
    for name, release in (("current", current), ("previous", previous)):
        if release:
            (home / name).symlink_to(home / "releases" / release)
    ask(home, releases, **options)
    return sorted(p.name for d in ("releases", "runtimes") for p in (home / d).iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep": 5, "current": "0.5"}, ["0.1", "0.2", "0.3", "0.4", "0.5", "new", "old"]),
        ({"keep": 2, "current": "0.5"}, ["0.4", "0.5", "new"]),
        ({"keep": 1, "current": "0.4", "previous": "0.1"}, ["0.1", "0.4", "0.5", "new", "old"]),
        ({"keep": 0, "current": "0.2"}, ["0.2", "old"]),
        ({"keep": 0, "current": "0.5", "spare": ["0.1"]}, ["0.1", "0.5", "new", "old"]),
    ],
)
def test_what_is_needed_stays(releases, home, options, expected):
    assert left(home, releases, **options) == expected
    assert AnsibleModule.told["changed"] == (len(expected) < 7)


def test_check_mode_only_says_what_would_go(releases, home):
    assert len(left(home, releases, keep=1, current="0.5", check_mode=True)) == 7
    assert AnsibleModule.told["removed"] == [
        *(str(home / f"releases/0.{number}") for number in (4, 3, 2, 1)),
        str(home / "runtimes/old"),
    ]


def test_nothing_is_removed_where_nothing_is(releases, tmp_path):
    told = ask(tmp_path, releases, keep=0)
    assert (told["removed"], told["complete"], told["current"], told["previous"]) == ([], [], "", "")


def test_it_says_what_is_there_and_removes_nothing_unasked(releases, home):
    for name in ("releases/0.4", "releases/0.5", "runtimes/new"):
        (home / name / "complete").touch()
    (home / "current").symlink_to(home / "releases/0.5")
    (home / "previous").symlink_to(home / "releases/gone")
    told = ask(home, releases)
    assert (told["changed"], told["removed"]) == (False, [])
    names = [str(Path(path).relative_to(home)) for path in told["complete"]]
    assert sorted(names) == ["releases/0.4", "releases/0.5", "runtimes/new"]
    assert (told["current"], told["previous"]) == (str(home / "releases/0.5"), "")


def test_a_home_that_is_reached_by_a_link_keeps_what_is_in_use(releases, home, tmp_path_factory):
    """As where /opt lies on another disk."""
    linked = tmp_path_factory.mktemp("other") / "gemma3n"
    linked.symlink_to(home)
    stayed = left(linked, releases, keep=1, current="0.1", previous="0.2")
    assert stayed == ["0.1", "0.2", "0.5", "new", "old"]
    assert AnsibleModule.told["current"] == str(linked / "releases/0.1")
