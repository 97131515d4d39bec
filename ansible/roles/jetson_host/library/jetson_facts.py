#!/usr/bin/python
"""Finds out which Jetson this is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: jetson_facts
short_description: Finds out which Jetson this is
description:
  - Returns the board, its L4T release, the JetPack that goes with it, CUDA and its kind, and memory.
  - Changes nothing. On a machine that is no Jetson, C(jetson.is_jetson) is false and the rest unknown.
options:
  release_file:
    description: Where L4T states its release.
    type: path
    default: /etc/nv_tegra_release
  model_file:
    description: Where the device tree states the board.
    type: path
    default: /proc/device-tree/model
  cuda_file:
    description: Where CUDA states its version.
    type: path
    default: /usr/local/cuda/version.json
author:
  - gemma3n_appliance
"""

EXAMPLES = r"""
- name: Find out which Jetson this is
  jetson_facts:

- name: Say so
  ansible.builtin.debug:
    msg: "{{ jetson.board }}, JetPack {{ jetson.jetpack }}"
"""

RETURN = r"""
ansible_facts:
  description: What was found out.
  returned: always
  type: dict
  sample:
    jetson:
      is_jetson: true
      board: NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super
      family: orin
      l4t: "36.4.3"
      l4t_major: 36
      jetpack: "6.2"
      cuda: "12.6"
      is_sbsa: false
      memory_mb: 7803
"""

# The first L4T release of each JetPack, newest first (https://developer.nvidia.com/embedded/jetpack-archive).
JETPACKS = (
    ((39, 0), "7.2"),
    ((38, 4), "7.1"),
    ((38, 2), "7.0"),
    ((36, 5), "6.2.2"),
    ((36, 4, 4), "6.2.1"),
    ((36, 4, 3), "6.2"),
    ((36, 4), "6.1"),
    ((36, 3), "6.0"),
    ((36, 0), "6"),
    ((34, 0), "5"),
    ((32, 0), "4"),
)


def parse_release(text: str) -> str | None:
    """The L4T release in the words of /etc/nv_tegra_release, such as "36.4.3", or None."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def jetpack_of(l4t: str) -> str | None:
    """The JetPack that an L4T release belongs to, or None for one older than them all."""
    release = tuple(int(part) for part in l4t.split("."))
    return next((jetpack for first, jetpack in JETPACKS if release >= first), None)


def family_of(board: str) -> str | None:
    """The board's family in one word, as far as it matters here."""
    return next((name for name in ("thor", "orin", "xavier", "nano", "tx2") if name in board.lower()), None)


def read(path: str) -> str:
    """The file's text without what ends it, or nothing where there is no such file."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def l4t_package() -> str | None:
    """The version of the package that brings L4T, for releases without a release file."""
    query = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core"]
    try:
        version = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else None


def cuda_version(path: str) -> str | None:
    """CUDA's version as "12.6", or None."""
    try:
        version = json.loads(read(path))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return ".".join(version.split(".")[:2])


def is_sbsa() -> bool:
    """Whether CUDA is that of Arm servers; on the older boards nvidia-smi names the Tegra driver, nvgpu."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return "nvgpu" not in listed.stdout


def memory_mb() -> int | None:
    """MemTotal, in millions of bytes."""
    found = re.search(r"MemTotal:\s+(\d+) kB", read("/proc/meminfo"))
    return int(found[1]) * 1024 // 1_000_000 if found else None


def find_out(release_file: str, model_file: str, cuda_file: str) -> dict[str, Any]:
    """Returns everything that is known of this machine."""
    board = read(model_file)
    l4t = parse_release(read(release_file)) or l4t_package()
    return {
        "is_jetson": l4t is not None,
        "board": board,
        "family": family_of(board),
        "l4t": l4t,
        "l4t_major": int(l4t.split(".")[0]) if l4t else None,
        "jetpack": jetpack_of(l4t) if l4t else None,
        "cuda": cuda_version(cuda_file),
        "is_sbsa": is_sbsa(),
        "memory_mb": memory_mb(),
    }


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            "release_file": {"type": "path", "default": "/etc/nv_tegra_release"},
            "model_file": {"type": "path", "default": "/proc/device-tree/model"},
            "cuda_file": {"type": "path", "default": "/usr/local/cuda/version.json"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, ansible_facts={"jetson": find_out(**module.params)})


if __name__ == "__main__":
    main()
