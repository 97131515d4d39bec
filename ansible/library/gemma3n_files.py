#!/usr/bin/python
"""Writes files, and removes those that are not wanted: all in one go, which over a network is quicker."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gemma3n_files
short_description: Writes files, and removes those that are not wanted
description:
  - All files belong to root. Folders that lack are made. Each file is replaced in one step.
  - What is wanted needs one of content, secret and copy_of.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where the file is.
        type: path
        required: true
      content:
        description: What is in it, for everybody to read.
        type: str
      executable:
        description: Whether that is to be run.
        type: bool
        default: false
      secret:
        description: What is in it, for root alone to read; shown nowhere.
        type: str
      copy_of:
        description: A file on the same machine whose content and mode it has.
        type: path
      wanted:
        description: Whether it is to be there. A folder that is not goes with all that is in it.
        type: bool
        default: true
author:
  - gemma3n_appliance
"""

EXAMPLES = r"""
- name: Hand over the token
  gemma3n_files:
    files:
      - path: /etc/gemma3n/hf_token
        secret: "{{ token }}"
        wanted: "{{ token | length > 0 }}"
"""

RETURN = r"""
paths:
  description: The files that were written or removed.
  returned: always
  type: list
  sample: [/etc/gemma3n/hf_token]
"""

ROOT = 0
NOT_SHOWN = "(not shown)\n"


def wanted(file: dict[str, Any]) -> tuple[bytes, int] | None:
    """A file's content and mode as they are to be; None where it is not to be there."""
    if not file["wanted"]:
        return None
    if file["copy_of"]:
        source = Path(file["copy_of"])
        return source.read_bytes(), source.stat().st_mode & 0o777
    if file["secret"] is not None:
        return file["secret"].encode(), 0o600
    return file["content"].encode(), 0o755 if file["executable"] else 0o644


def present(path: Path) -> tuple[bytes, int] | None:
    """A file's content and mode as they are; a mode of -1 where it is not root's."""
    if not path.is_file() or path.is_symlink():
        return None
    status = path.stat()
    is_roots = (status.st_uid, status.st_gid) == (ROOT, ROOT)
    return path.read_bytes(), status.st_mode & 0o7777 if is_roots else -1


def write(path: Path, content: bytes, mode: int) -> None:
    """Replaces a file in one step, which a power cut does not undo by half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, ROOT, ROOT)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink()
        raise


def remove(path: Path) -> None:
    """Removes a file or a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def partial_of(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.gemma3n-new")


def require_maskable(files: list[dict[str, Any]]) -> str | None:
    """Says which secret Ansible could not mask in its log, where it quotes what it was given."""
    for file in files:
        if file["secret"] is not None and repr(file["secret"])[1:-1] != file["secret"]:
            return f"The secret for {file['path']} holds a line break, a quote or a backslash."
    return None


def difference(file: dict[str, Any], before: bytes | None, after: bytes | None) -> dict[str, str]:
    """What ``--diff`` shows."""
    is_shown = file["secret"] is None

    def text(content: bytes | None) -> str:
        return "" if content is None else content.decode(errors="replace") if is_shown else NOT_SHOWN

    headers = {"before_header": file["path"], "after_header": file["path"]}
    return {"before": text(before), "after": text(after), **headers}


def main() -> None:
    """Runs the module."""
    file_options = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "executable": {"type": "bool", "default": False},
        "secret": {"type": "str", "no_log": True},
        "copy_of": {"type": "path"},
        "wanted": {"type": "bool", "default": True},
    }
    contents = ("content", "secret", "copy_of")
    options = {
        "files": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": file_options,
            "mutually_exclusive": [contents],
            "required_if": [("wanted", True, contents, True)],
        }
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    os.umask(0o022)
    if fault := require_maskable(module.params["files"]):
        module.fail_json(msg=fault)
    paths, differences = [], []
    for file in module.params["files"]:
        path = Path(file["path"])
        try:
            if not module.check_mode:  # what a run that was killed has left
                partial_of(path).unlink(missing_ok=True)
            before, after = present(path), wanted(file)
            if before == after and not path.is_symlink() and not path.is_dir():
                continue
            if not module.check_mode and after is None:
                remove(path)
            elif not module.check_mode:
                write(path, *after)
        except OSError as error:
            module.fail_json(msg=f"{path} could not be read, written or removed: {error}.")
        paths.append(file["path"])
        differences.append(difference(file, before and before[0], after and after[0]))
    module.exit_json(changed=bool(paths), paths=paths, diff=differences)


if __name__ == "__main__":
    main()
