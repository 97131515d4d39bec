"""A machine that downloads from the stand-in hub, through the command line as a person does."""

import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from gemma3n_appliance.settings import Settings
from tests.fakes.hub import FakeHub
from tests.host import forked

REPO = "acme/gemma-3n-tiny"
WEIGHTS = "model-00001-of-00001.safetensors"
ROOT = Path(__file__).parents[2]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([forked.__name__])
# Here and now: where tests are run, it would not find the module, and say nothing.
multiprocessing.forkserver.ensure_running()

# What a process may do before it runs the command line.
# Every attempt to use the network raises.
OFFLINE = """
import sys
def forbid(event, _):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError("the network was touched")
sys.addaudithook(forbid)
"""
# Nobody waits for minutes.
IMPATIENT = """
import time
time.sleep = lambda s: None
"""


def checkpoint(seed: int = 0) -> dict[str, bytes]:
    """What a model repository may look like, weights of 3 MB."""
    return {
        "config.json": b'{"model_type": "gemma3n", "seed": %d}' % seed,
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer.model": b"\n\x0e\n\x05<pad>",
        "chat_template.jinja": b"{{ messages }}",
        WEIGHTS: Random(seed).randbytes(3_000_000),
        "README.md": b"# Tiny",
        "picture.png": b"\x89PNG",
        "pytorch_model.bin": b"pickled",
        "consolidated.pth": b"pickled",
        "gemma-3n-Q4_K_M.gguf": b"GGUF",
        "onnx/config.json": b"{}",
        "onnx/model.onnx": b"onnx",
    }


NEEDED = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer.model",
]


@dataclass
class Appliance:
    """A machine with an empty disk that downloads from the stand-in."""

    home: Path
    hub: FakeHub
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(model_name=REPO, models_dir=self.home / "models")

    @property
    def model_dir(self) -> Path:
        return self.settings.model_dir

    @property
    def partial(self) -> Path:
        return self.model_dir / f"{WEIGHTS}.partial"

    def start(self, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Starts ``gemma3n-appliance download``."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gemma3n_appliance", "download", *arguments],
            cwd=self.home,  # the developer's .env is none of our business
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self._processes.append(process)
        return process

    def switch_off(self) -> None:
        """Ends what still runs, as it does after a test that failed."""
        for process in self._processes:
            with process:
                process.kill()

    def download(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("download", *arguments, **environment)

    def download_offline(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("download", *arguments, offline=True, **environment)

    def download_impatiently(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("download", *arguments, impatient=True, **environment)

    def run(
        self,
        *arguments: str,
        offline: bool = False,
        impatient: bool = False,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``gemma3n-appliance`` with these arguments to its end."""
        out, err = (self.home / name for name in ("stdout", "stderr"))
        prelude = OFFLINE * offline + IMPATIENT * impatient
        known = (prelude, arguments, self._environment | environment, self.home, out, err)
        process = FORKS.Process(target=forked.run, args=known, daemon=True)
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail(f"{arguments} takes more than a minute")
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())

    def present(self) -> list[str]:
        """The model's files on disk, without the manifest."""
        names = [str(p.relative_to(self.model_dir)) for p in self.model_dir.rglob("*") if p.is_file()]
        return sorted(set(names) - {"gemma3n-manifest.json"})

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home / "home"),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "MODELS_DIR": str(self.home / "models"),
            "MODEL_NAME": REPO,
            "HF_ENDPOINT": self.hub.url,
        }
