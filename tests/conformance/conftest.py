"""The running demo, started as the README says, and the official client."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@contextmanager
def running_demo(log: Path, **settings: str) -> Iterator[str]:
    """Yields where ``bin/demo`` answers; it is stopped with Ctrl-C at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"GEMMA3N_PORT": str(port), "OMP_NUM_THREADS": "1", "DEVICE": "cpu"}
    with log.open("wb") as output:
        demo = subprocess.Popen(
            ["bin/demo"],
            cwd=ROOT,
            env=os.environ | common | settings,
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


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the demo answers, as it comes."""
    with running_demo(tmp_path_factory.mktemp("demo") / "log") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
