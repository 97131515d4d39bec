import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import httpx2
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Gemma 3n checkpoint, small and untrained."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import gemma3n_appliance.model  # noqa: F401 - makes torchvision importable
    from gemma3n_appliance.demo import checkpoint, vocabulary

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("stack") / "Gemma-Untrained"
    tokenizer = vocabulary.build(["hello there, what is this picture? user model"] * 8, 40)
    model = checkpoint.untrained(tokenizer).to(torch.bfloat16)
    checkpoint.save(model, checkpoint.processor(tokenizer), path)
    return path


def environment(**settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | settings


class Stack:
    """The appliance as it is started on a machine: gunicorn, its worker, the engine, the model."""

    def __init__(self, directory: Path, log: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gemma3n_appliance", "serve"],
                cwd=log.parent,
                env=environment(
                    MODEL_NAME=str(directory),
                    GEMMA3N_HOST="127.0.0.1",
                    GEMMA3N_PORT=str(port),
                    DEVICE="cpu",
                    CONTEXT_LENGTH="2048",
                    HOME=str(log.parent),
                    **settings,
                ),
                stderr=stderr,
            )

    def __enter__(self) -> "Stack":
        wait_until(self._is_ready, timeout_s=120)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return httpx2.get(f"{self.url}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(scope="session")
def stack(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(directory, tmp_path_factory.mktemp("serving") / "log") as stack:
        yield stack


@pytest.fixture(scope="session")
def another_gemma(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Gemma 3, with the tokenizer and the template of the other."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    from transformers.utils import SAFE_WEIGHTS_NAME

    path = tmp_path_factory.mktemp("stack") / "Gemma-3-Untrained"
    shutil.copytree(directory, path, ignore=shutil.ignore_patterns(SAFE_WEIGHTS_NAME))
    text = json.loads((directory / "config.json").read_text())["text_config"]
    torch.manual_seed(1)
    sizes = {name: text[name] for name in ("vocab_size", "hidden_size", "head_dim", "num_key_value_heads")}
    config = Gemma3TextConfig(
        **sizes, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, sliding_window=32
    )
    Gemma3ForCausalLM(config).save_pretrained(path)
    return path
