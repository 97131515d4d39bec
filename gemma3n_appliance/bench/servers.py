"""Servers to measure, ours and ``transformers serve``, each a process of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from ..settings import Settings

START_S = 300
PROJECT = Path(__file__).parents[2]
NUM_SLOTS = 16
CONTEXT_LENGTH = 4096


@dataclass(frozen=True)
class Server:
    """A server that answers; ``started_s`` is how long its first token took, from nothing."""

    name: str
    url: str
    model: str
    started_s: float


@contextmanager
def ours(directory: Path) -> Iterator[Server]:
    """The appliance."""
    settings = {
        "MODEL_NAME": str(directory),
        "GEMMA3N_HOST": "127.0.0.1",
        "DEVICE": "cpu",
        "NUM_SLOTS": str(NUM_SLOTS),
        "CONTEXT_LENGTH": str(CONTEXT_LENGTH),
        "LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "gemma3n_appliance", "serve"]
    with _started("ours", "gemma3n", command, settings, "GEMMA3N_PORT") as server:
        yield server


@contextmanager
def transformers_serve(directory: Path) -> Iterator[Server]:
    """transformers' own server, as it comes: one request after the other."""
    module = f"{__package__}.transformers_serve"
    command = [
        sys.executable,
        "-m",
        module,
        str(directory),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--port",
    ]
    with _started("transformers serve", str(directory), command, {}, None) as server:
        yield server


@contextmanager
def _started(
    name: str, model: str, command: list[str], settings: dict[str, str], port_variable: str | None
) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    if port_variable:
        settings = settings | {port_variable: port}
    else:
        command = [*command, port]
    began = time.monotonic()
    # Where there is no .env.
    with tempfile.TemporaryDirectory() as elsewhere:
        process = subprocess.Popen(
            command,
            env=_environment() | settings,
            cwd=elsewhere,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for_a_token(url, model, process, began + START_S)
            yield Server(name, url, model, time.monotonic() - began)
        finally:
            process.terminate()
            process.wait()


def _environment() -> dict[str, str]:
    """Returns ours, but for settings: what is measured must not depend on them."""
    named = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in named}
    return inherited | {"PYTHONPATH": str(PROJECT)}


def _wait_for_a_token(url: str, model: str, process: subprocess.Popen[bytes], until: float) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    # One client for all: a new one takes 40 ms of the CPU that the server is starting on.
    with httpx2.Client(base_url=url, timeout=START_S) as client:
        while process.poll() is None and time.monotonic() < until:
            try:
                if client.post("/v1/chat/completions", json=body).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
    raise RuntimeError(f"{model} is not served: try the command by hand")
