#!/usr/bin/python
"""Tells how a board's server is."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gemma3n_status
short_description: Tells how a board's server is
description:
  - Asks the server's C(/health), and the board for its temperature and memory. Changes nothing, never fails.
options:
  port:
    description: Port of the server.
    type: int
    default: 8000
  host:
    description: Address that the server listens on.
    type: str
    default: 0.0.0.0
author:
  - gemma3n_appliance
"""

EXAMPLES = r"""
- name: Ask how the server is
  gemma3n_status:
  register: board
"""

RETURN = r"""
status:
  description: What was found out; "-" where it could not be.
  returned: always
  type: dict
  sample:
    release: "0.1.0"
    model: google/gemma-3n-E4B-it
    state: ready
    tokens_per_s: 17.2
    running: 1
    waiting: 0
    hottest_c: 51.5
    memory_free_mb: 2263
    memory_mb: 7803
"""


CURRENT = Path("/opt/gemma3n/current")
ANSWER_S = 5


def health(host: str, port: int) -> dict[str, Any]:
    """What /health answers, whatever its status, or nothing."""
    address = "127.0.0.1" if host in ("0.0.0.0", "::", "[::]") else host  # noqa: S104
    if ":" in address and not address.startswith("["):
        address = f"[{address}]"
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with without_proxy.open(f"http://{address}:{port}/health", timeout=ANSWER_S) as reply:
            text = reply.read()
    except urllib.error.HTTPError as error:
        text = error.read()
    except (OSError, http.client.HTTPException):
        return {}
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and "status" in told else {}


def temperatures_c() -> Iterator[float]:
    """What the board measures, in degrees Celsius."""
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        text = read(zone).strip()  # zones that are switched off cannot be read
        if text.lstrip("-").isdigit():
            yield int(text) / 1000


def read(path: Path) -> str:
    """The file's text, or nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""


def memory_mb(field: str) -> int | None:
    """A field of /proc/meminfo, in millions of bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) * 1024 // 1_000_000 if found else None


def find_out(host: str, port: int) -> dict[str, Any]:
    """Everything that is known of the server and its board."""
    told = health(host, port)
    queue = told.get("queue") or {}
    return {
        "release": CURRENT.resolve().name if CURRENT.is_symlink() else None,
        "model": told.get("model"),
        "state": told.get("status", "no answer"),
        "tokens_per_s": told.get("tokens_per_s"),
        "running": queue.get("running"),
        "waiting": queue.get("waiting"),
        "hottest_c": max(temperatures_c(), default=None),
        "memory_free_mb": memory_mb("MemAvailable"),
        "memory_mb": memory_mb("MemTotal"),
    }


def main() -> None:
    """Runs the module."""
    options = {
        "port": {"type": "int", "default": 8000},
        "host": {"type": "str", "default": "0.0.0.0"},  # noqa: S104
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    found = find_out(module.params["host"], module.params["port"])
    module.exit_json(changed=False, status={k: "-" if v is None else v for k, v in found.items()})


if __name__ == "__main__":
    main()
