"""Memory that a loaded model holds for itself alone, each in a process of its own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import Gemma3nForCausalLM

from ..model import native
from . import checkpoints
from .report import Row

# What a CPU computes in, and not what the file has: transformers maps a file where the two are the same.
DTYPE = "float32"


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields anonymous memory, and how much of the table that spares."""
    shape = checkpoints.LARGE_TABLE
    directory = checkpoints.at(cache, shape)
    pairs = [(_of("ours", directory), _of("transformers", directory)) for _ in range(num_rounds)]
    ours, theirs = zip(*pairs, strict=True)
    yield Row(f"anonymous memory, {DTYPE}, with {shape.name}", "MB", ours, theirs, "transformers' model")
    num_numbers = shape.table_rows * shape.table_width * shape.num_layers
    table_mb = num_numbers * getattr(torch, DTYPE).itemsize / 2**20
    spared = [100 * (their - our) / table_mb for our, their in pairs]
    yield Row("of that table, spared", "%", spared)


def _of(whose: str, directory: Path) -> float:
    measure = [sys.executable, "-m", __name__, whose, str(directory)]
    return float(subprocess.run(measure, check=True, capture_output=True, text=True).stdout.split()[-1])


def _main(whose: str, directory: Path) -> None:
    dtype = getattr(torch, DTYPE)
    before = _anonymous_mb()
    if whose == "ours":
        config = checkpoints.config(checkpoints.LARGE_TABLE)
        loaded: object = native.load(directory, config, dtype, torch.device("cpu"))
    else:
        loaded = Gemma3nForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    print(_anonymous_mb() - before)
    del loaded


def _anonymous_mb() -> float:
    told = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"^Anonymous:\s+(\d+) kB", told, re.MULTILINE)[0]) / 1024


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
