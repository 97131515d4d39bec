import os
import pty
import subprocess
import sys

import pytest

from tests.host.appliance import ROOT

# Fails with a secret in a local variable, as a request's prompt or a token may be.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import structlog
from gemma3n_appliance.host import logs
logs.configure("info")
def answer(prompt):
    raise RuntimeError("it broke")
try:
    answer("my " + "secret")
except RuntimeError:
    structlog.get_logger("test").exception("request_failed")
"""


PATH = """
import sys
sys.path.insert(0, sys.argv[1])
import structlog
from gemma3n_appliance.host import logs
logs.configure("info")
structlog.get_logger("test").info("request", path="/x\\rlevel=info\\x1b[2J\\n\\u2028\\x85\\t/é")
"""


def test_a_path_cannot_forge_lines_or_colours():
    done = subprocess.run(
        [sys.executable, "-c", PATH, str(ROOT)], capture_output=True, timeout=30, check=True, encoding="utf-8"
    )
    line = done.stderr.removesuffix("\n")
    assert r"/x\x0dlevel=info\x1b[2J\n\u2028\x85\x09/é" in line.replace(r"\\", "\\")
    assert line.isprintable()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_traceback_does_not_show_what_variables_hold(is_terminal: bool):
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT)], stderr=theirs, timeout=30, check=True)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "request_failed" in shown
    assert "RuntimeError: it broke" in shown
    assert "my secret" not in shown
