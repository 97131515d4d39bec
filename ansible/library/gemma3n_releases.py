#!/usr/bin/python
"""Says which releases and runtimes are there; removes those of long ago."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gemma3n_releases
short_description: Says which releases are there, and removes those of long ago
description:
  - Where it is told how many to keep, it keeps the newest releases, the one in use and the one before it; it
    removes others, and the runtimes that no release needs any more.
options:
  home:
    description: Where releases and runtimes are.
    type: path
    required: true
  keep:
    description: How many releases stay; all, where this is left out.
    type: int
  spare:
    description: Releases that stay in any case.
    type: list
    elements: path
    default: []
author:
  - gemma3n_appliance
"""

EXAMPLES = r"""
- name: Remove releases of long ago
  gemma3n_releases:
    home: /opt/gemma3n
    keep: 3
"""

RETURN = r"""
current:
  description: The release in use; empty where there is none.
  returned: always
  type: str
  sample: /opt/gemma3n/releases/0.1.0-1b2c3d4e
previous:
  description: The release that was in use before it; empty where there was none.
  returned: always
  type: str
wanted:
  description: The release that the last upgrade was to bring into use; empty where there was none.
  returned: always
  type: str
complete:
  description: The releases and runtimes that are whole.
  returned: always
  type: list
  sample: [/opt/gemma3n/releases/0.1.0-1b2c3d4e]
removed:
  description: What was removed.
  returned: always
  type: list
  sample: [/opt/gemma3n/releases/0.1.0-1b2c3d4e]
"""


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, newest first; none where it is not there."""
    found = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def linked(home: Path, name: str) -> Path | None:
    """The release that a link names; None where it names none."""
    link = home / name
    return home / link.readlink() if link.is_symlink() and link.exists() else None


def superfluous(home: Path, keep: int, spare: list[Path]) -> list[Path]:
    """What may go: releases first, then the runtimes that only those need."""
    releases = folders(home / "releases")
    links = [release for name in ("current", "previous") if (release := linked(home, name))]
    staying = {path.resolve() for path in (*links, *spare, *releases[:keep])}
    needed = {runtime for path in releases if path.resolve() in staying for runtime in runtimes_of(path)}
    old_runtimes = [
        path
        for path in folders(home / "runtimes")
        if not any(path.resolve() in runtime.parents for runtime in needed)
    ]
    return [path for path in releases if path.resolve() not in staying] + old_runtimes


def runtimes_of(release: Path) -> list[Path]:
    """The folders of packages that the release is on top of."""
    named = release.glob("lib/python*/site-packages/runtime.pth")
    return [Path(path.read_text().strip()).resolve() for path in named]


def remove(path: Path) -> None:
    """Removes a folder, which must not pass for whole when it is half removed."""
    (path / "complete").unlink(missing_ok=True)
    shutil.rmtree(path)


def main() -> None:
    """Runs the module."""
    options = {
        "home": {"type": "path", "required": True},
        "keep": {"type": "int"},
        "spare": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    home, keep = Path(module.params["home"]), module.params["keep"]
    spare = [Path(path) for path in module.params["spare"]]
    removed = [] if keep is None else superfluous(home, keep, spare)
    if not module.check_mode:
        for path in removed:
            remove(path)
    there = folders(home / "releases") + folders(home / "runtimes")
    module.exit_json(
        changed=bool(removed),
        removed=[str(path) for path in removed],
        complete=[str(path) for path in there if (path / "complete").exists()],
        **{name: str(linked(home, name) or "") for name in ("current", "previous", "wanted")},
    )


if __name__ == "__main__":
    main()
