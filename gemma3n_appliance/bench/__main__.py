"""``bin/bench``: measures, and prints a table."""

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path

import structlog
import torch
import transformers

from .. import settings
from . import compute, gpu, llama_cpp, memory, quality, serving
from .report import table

SUBJECTS = {
    "compute": compute.rows,
    "llama-cpp": llama_cpp.rows,
    "memory": memory.rows,
    "quality": quality.rows,
    "serving": serving.rows,
    "gpu": gpu.rows,
}
# A GPU's takes checkpoints of 23 GB, and two models of such a size at once.
UNLESS_NAMED = ("compute", "llama-cpp", "memory", "quality", "serving")


def main() -> None:
    """Runs it."""
    options = _options()
    cache = (settings.load().cache_dir / "bench").resolve()  # servers run elsewhere
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    for subject in options.subjects or UNLESS_NAMED:
        for row in SUBJECTS[subject](cache, options.rounds):
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    print(f"\n{_machine()}; medians of {options.rounds}\n\n{table(rows)}")
    if options.json:
        told = {"machine": _machine(), "rounds": options.rounds, "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measures the appliance beside its peers.")
    parser.add_argument("subjects", nargs="*", help=f"{', '.join(SUBJECTS)}: all but gpu where none is named")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every figure there")
    options = parser.parse_args()
    for subject in options.subjects:
        if subject not in SUBJECTS:
            parser.error(f"there is no {subject}; there are {', '.join(SUBJECTS)}")
    return options


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{today}, {torch.get_num_threads()} threads on {cpu}, {versions}"


if __name__ == "__main__":
    main()
