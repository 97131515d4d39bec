"""The roles' own modules, without Ansible, which is on the controller alone."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

ANSIBLE = Path(__file__).parents[2] / "ansible"


class AnsibleModule:
    """What a module asks Ansible for, and tells it."""

    params: ClassVar[dict[str, object]] = {}
    check_mode: ClassVar[bool] = False
    argument_spec: ClassVar[dict[str, object]]
    told: ClassVar[dict[str, object]]

    def __init__(self, argument_spec: dict[str, object], **_: object) -> None:
        AnsibleModule.argument_spec = argument_spec

    def exit_json(self, **told: object) -> None:
        AnsibleModule.told = told

    def fail_json(self, msg: str) -> None:
        AnsibleModule.told = {"failure": msg}
        sys.exit(1)


def load(monkeypatch: pytest.MonkeyPatch, path: str) -> ModuleType:
    basic = ModuleType("ansible.module_utils.basic")
    basic.AnsibleModule = AnsibleModule
    for name in ("ansible", "ansible.module_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, basic.__name__, basic)
    spec = importlib.util.spec_from_file_location(Path(path).stem, ANSIBLE / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
