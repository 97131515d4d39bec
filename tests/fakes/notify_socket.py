"""systemd's end of sd_notify(3)."""

import socket
import threading
from pathlib import Path
from types import TracebackType


class NotifySocket:
    """Listens on a socket and keeps what it is told."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def __enter__(self) -> "NotifySocket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while heard := self._socket.recv(1 << 16):
            self.told += heard.decode().split("\n")
