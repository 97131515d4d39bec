#!/usr/bin/python
"""Removes releases of long ago, and the runtimes that no release needs any more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gemma3n_releases
short_description: Removes releases of long ago
description:
  - Keeps the newest releases, the one in use and the one before it; removes others, and the runtimes that no
    release needs any more.
options:
  home:
    description: Where releases and runtimes are.
    type: path
    required: true
  keep:
    description: How many releases stay.
    type: int
    required: true
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


def superfluous(home: Path, keep: int, spare: list[Path]) -> list[Path]:
    """What may go: releases first, then the runtimes that only those need."""
    links = [Path(os.path.realpath(home / name)) for name in ("current", "previous")]
    releases = folders(home / "releases")
    staying = {*links, *spare, *releases[:keep]}
    needed = {text for path in releases if path in staying for text in runtimes_of(path)}
    old_runtimes = [
        path for path in folders(home / "runtimes") if not any(text.startswith(f"{path}/") for text in needed)
    ]
    return [path for path in releases if path not in staying] + old_runtimes


def runtimes_of(release: Path) -> list[str]:
    """The folders of packages that the release is on top of."""
    return [path.read_text().strip() for path in release.glob("lib/python*/site-packages/runtime.pth")]


def main() -> None:
    """Runs the module."""
    options = {
        "home": {"type": "path", "required": True},
        "keep": {"type": "int", "required": True},
        "spare": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    home, spare = Path(module.params["home"]), [Path(path) for path in module.params["spare"]]
    removed = superfluous(home, module.params["keep"], spare)
    if not module.check_mode:
        for path in removed:
            (path / "complete").unlink(missing_ok=True)  # what is half removed must not pass for whole
            shutil.rmtree(path)
    module.exit_json(changed=bool(removed), removed=[str(path) for path in removed])


if __name__ == "__main__":
    main()
