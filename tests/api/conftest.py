import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from gemma3n_appliance.bootstrap import Appliance
from gemma3n_appliance.engine.engine import Engine
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.engine.runner import LoadedModel
from gemma3n_appliance.host.worker import ApplianceProtocol, ApplianceServer
from gemma3n_appliance.prompt.prompts import Prompts
from gemma3n_appliance.settings import Settings
from tests.fakes import checkpoint

from .speaker import Speaker


class Served:
    """The app on a port of its own, as the worker serves it, over an engine with a fake runner."""

    def __init__(self, settings: Settings, load: Callable[[], LoadedModel]) -> None:
        self.engine = Engine(
            load,
            max_queue=settings.max_queue,
            prefill_chunk=settings.prefill_chunk,
            pulse=Pulse(settings.step_limit),
        )
        app = Appliance(settings, self.engine, Prompts(settings))
        config = uvicorn.Config(
            app, http=ApplianceProtocol, ws="none", lifespan="on", log_config=None, access_log=False
        )
        self._server = ApplianceServer(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def terminate(self) -> None:
        """What a SIGTERM does."""
        self._server.should_exit = True

    def stop(self) -> None:
        self.http.close()
        self.terminate()
        self._thread.join(20)
        self._socket.close()

    def chat(self, content: Any = "Hi", **fields: Any) -> httpx2.Response:
        messages = fields.pop("messages", [{"role": "user", "content": content}])
        return self.http.post(
            "/v1/chat/completions", json={"model": "gemma3n", "messages": messages} | fields
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.write(tmp_path_factory.mktemp("checkpoints") / "Gemma-Small")


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


Serve = Callable[..., Served]


@pytest.fixture
def serve(directory: Path, speaker: Speaker) -> Iterator[Serve]:
    """Starts a server; settings are given by name, and ``load`` by what it does."""
    running: list[Served] = []

    def start(load: Callable[[], LoadedModel] = speaker.loaded, **settings: Any) -> Served:
        served = Served(Settings(**({"model_name": str(directory)} | settings)), load)
        running.append(served)
        return served

    yield start
    speaker.may_decode.set()
    for served in running:
        served.stop()


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()
