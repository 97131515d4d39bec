"""Runs the command line in a process forked from one that has imported it: that takes longer than most runs.

What reads its settings when it is imported, as huggingface_hub does, is left to each process.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import httpx2  # noqa: F401 - which huggingface_hub imports

from gemma3n_appliance import cli


def run(
    prelude: str,
    arguments: Sequence[str],
    environment: dict[str, str],
    directory: Path,
    stdout: Path,
    stderr: Path,
) -> NoReturn:
    """Ends this process as ``gemma3n-appliance`` with these arguments would end."""
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    warnings.simplefilter("error")
    exec(prelude)
    sys.exit(cli.main(arguments))
