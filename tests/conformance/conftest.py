"""The running demo, started as the README says, and the official client."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where ``bin/demo`` answers; it is stopped with Ctrl-C at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            ["bin/demo"],
            cwd=ROOT,
            env=os.environ | {"GEMMA3N_PORT": str(port), "OMP_NUM_THREADS": "1", "DEVICE": "cpu"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert demo.poll() is None, log.read_text()
        try:
            return httpx2.get(f"{url}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(is_ready, timeout_s=180)
        yield url
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 0, log.read_text()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client
