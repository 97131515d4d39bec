"""A stand-in for the Hugging Face hub: a real HTTP server that speaks the part of its API a download uses.

Files whose names end in ``.safetensors`` are "large": described by sha256, and redirected to another path, as
the hub sends them to its CDN. All others are described by the id of their git blob and served directly.
"""

import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Cut:
    """Drops the connection after so many bytes of the body; ``reset`` does it with a TCP reset."""

    after: int
    reset: bool = False


@dataclass
class Short:
    """Ends after so many bytes of the body as if they were all, as some proxies do; tells no length."""

    after: int


@dataclass
class Stall:
    """Stops sending after so many bytes of the body, until the hub is told to ``resume``."""

    after: int


@dataclass
class Corrupt:
    """Sends the right number of wrong bytes."""


@dataclass
class WholeFile:
    """Ignores the Range header, as a proxy may."""


@dataclass
class LoginPage:
    """Answers with a web page, as a captive portal does."""


@dataclass
class Denied:
    """Refuses without a word, as the CDN does when a link has expired."""


Trouble = Cut | Short | Stall | Corrupt | WholeFile | LoginPage | Denied


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    path: str
    range: str | None
    token: str | None


@dataclass
class RefusalError(Exception):
    """The hub's way to say no."""

    status: int
    code: str | None
    message: str


@dataclass
class Repo:
    """A repository: files by commit, commits by revision, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    readers: set[str] = field(default_factory=set)
    claimed_sizes: dict[str, int] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], revision: str = "main") -> str:
        """Adds a commit and moves the revision to it."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.revisions[revision] = self.revisions[commit] = commit
        return commit

    def files_at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        if revision not in self.revisions:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = self.revisions[revision]
        return commit, self.commits[commit]


class FakeHub:
    """Serves ``repos``, makes each ``trouble`` of a file once, in order, and remembers the ``requests``.

    The trouble named ``api`` is that of what it tells about repositories.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.repos: dict[str, Repo] = {}
        self.valid_tokens: set[str] = set()
        self.token_faults: dict[str, RefusalError] = {}
        self.trouble: dict[str, deque[Trouble]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.bytes_sent: dict[str, int] = defaultdict(int)
        self.has_stalled = threading.Event()
        self._resumed = threading.Event()
        self._server = _Server((host, port), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        if self._thread.is_alive():
            self.stop()

    def stop(self) -> None:
        """Goes off the network."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def resume(self) -> None:
        """Lets stalled replies go on."""
        self._resumed.set()

    def wait_to_resume(self) -> None:
        self.has_stalled.set()
        self._resumed.wait()

    def ranges(self, name: str) -> list[str | None]:
        """The Range header of each request for the file's bytes, in order."""
        return [r.range for r in self.requests if r.path.endswith(f"/{name}") and "/resolve/" in r.path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of our business."""


def _handler_for(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(path, self.headers.get("Range"), token))
        try:
            self._route(path, token)
        except RefusalError as refusal:
            self._refuse(refusal)

    def _route(self, path: str, token: str | None) -> None:
        if path.startswith("/cdn/"):
            commit, name = path.removeprefix("/cdn/").split("/", 1)
            files = next(repo.commits[commit] for repo in self.hub.repos.values() if commit in repo.commits)
            self._send_file(name, files[name])
        elif path.startswith("/api/models/") and "/revision/" in path:
            name, revision = path.removeprefix("/api/models/").split("/revision/")
            if self.hub.trouble["api"]:
                self.hub.trouble["api"].popleft()
                self._send_login_page()
            else:
                self._send_info(name, self._open(name, token), revision)
        elif "/resolve/" in path:
            name, rest = path[1:].split("/resolve/")
            revision, file = rest.split("/", 1)
            self._resolve(self._open(name, token), revision, file, token)
        else:
            raise RefusalError(404, None, f"the stand-in has no {path}")

    def _open(self, name: str, token: str | None) -> Repo:
        if token in self.hub.token_faults:
            raise self.hub.token_faults[token]
        if token is not None and token not in self.hub.valid_tokens:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        if name not in self.hub.repos:
            raise RefusalError(404 if token else 401, "RepoNotFound", "Repository not found")
        return self.hub.repos[name]

    def _send_info(self, name: str, repo: Repo, revision: str) -> None:
        commit, files = repo.files_at(revision)
        siblings = [
            _sibling(file, data, repo.claimed_sizes.get(file, len(data))) for file, data in files.items()
        ]
        body = json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_login_page(self) -> None:
        body = "<html>Café Wi-Fi: please log in</html>".encode("latin-1")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repo: Repo, revision: str, name: str, token: str | None) -> None:
        if repo.is_gated and token not in repo.readers:
            raise RefusalError(403 if token else 401, "GatedRepo", "Access to model is restricted.")
        commit, files = repo.files_at(revision)
        if name not in files:
            raise RefusalError(404, "EntryNotFound", "Entry not found")
        if _is_large(name):
            self.send_response(302)
            self.send_header("Location", f"{self.hub.url}/cdn/{commit}/{name}?Signature=opens-it")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_file(name, files[name])

    def _send_file(self, name: str, data: bytes) -> None:
        trouble = self.hub.trouble[name].popleft() if self.hub.trouble[name] else None
        if isinstance(trouble, LoginPage):
            self._send_login_page()
            return
        if isinstance(trouble, Denied):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if (wanted := self.headers.get("Range")) and not isinstance(trouble, WholeFile):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        if isinstance(trouble, Short):
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send_body(name, body, trouble)

    def _send_body(self, name: str, body: bytes, trouble: Trouble | None) -> None:
        if isinstance(trouble, Corrupt):
            body = bytes(byte ^ 1 for byte in body[:1]) + body[1:]
        pause = trouble.after if isinstance(trouble, Cut | Short | Stall) else len(body)
        self._write(name, body[:pause])
        if isinstance(trouble, Short):
            return
        if isinstance(trouble, Cut):
            self._hang_up(trouble.reset)
            return
        if isinstance(trouble, Stall):
            self.hub.wait_to_resume()
        self._write(name, body[pause:])

    def _write(self, name: str, data: bytes) -> None:
        self.wfile.write(data)
        self.hub.bytes_sent[name] += len(data)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, refusal: RefusalError) -> None:
        body = json.dumps({"error": refusal.message}).encode()
        self.send_response(refusal.status)
        if refusal.code:
            self.send_header("X-Error-Code", refusal.code)
        self.send_header("X-Error-Message", refusal.message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _sibling(name: str, data: bytes, size: int) -> dict[str, object]:
    blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    described: dict[str, object] = {"rfilename": name, "size": size, "blobId": blob_id}
    if _is_large(name):
        sha256 = hashlib.sha256(data).hexdigest()
        described["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
    return described
