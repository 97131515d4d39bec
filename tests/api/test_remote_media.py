"""Pictures that are elsewhere: fetched where that is allowed, from nowhere that it is not."""

import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gemma3n_appliance.api import remote_media
from gemma3n_appliance.api.remote_media import is_allowed
from gemma3n_appliance.host import key_file
from tests.fakes.media import picture

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
REFUSED = "is at an address that this server does not fetch from"


class Pictures(BaseHTTPRequestHandler):
    """Answers by the path: a picture, a redirect, or trouble."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        name, _, rest = self.path.lstrip("/").partition("/")
        getattr(self, f"_{name}")(rest)

    def _answer(self, status, content=b"", **headers):
        self.send_response(status)
        for header, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(header.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def _picture(self, _rest):
        self._answer(200, picture(size=(20, 10)))

    def _text(self, _rest):
        self._answer(200, b"<svg/>")

    def _status(self, rest):
        self._answer(int(rest))

    def _to(self, rest):
        self._answer(302, Location=rest.replace("~", "/"))

    def _large(self, rest):
        self.send_response(200)
        self.end_headers()  # without a length
        try:
            for _ in range(int(rest)):
                self.wfile.write(b"x" * 2**20)
                self.server.num_mb_sent += 1
        except OSError:
            pass

    def _crumbs(self, _rest):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not self.server.done.is_set():
                self.wfile.write(b"1\r\nx\r\n" * 10_000)
        except OSError:
            pass

    def _slow(self, _rest):
        self.send_response(200)
        self.end_headers()
        self.server.done.wait(10)

    def _nonsense(self, _rest):
        self.wfile.write(b"\0\1\2 nonsense\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def pictures():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.asked, server.done, server.num_mb_sent = [], threading.Event(), 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.done.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetching(serve, speaker):
    """A server that fetches, also from this machine."""
    return serve(
        load=lambda: speaker.loaded(has_vision=True),
        allow_remote_media=True,
        remote_media_networks=LOOPBACK,
        max_body_mb=2,
    )


def ask(served, *urls, **fields):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return served.chat([{"type": "text", "text": "Look."}, *parts], **fields)


def refusal(reply, param="messages[0].content[1].image_url"):
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    return error["message"]


def test_nothing_is_fetched_unless_that_is_allowed(serve, speaker, pictures):
    served = serve(load=lambda: speaker.loaded(has_vision=True))
    assert "does not fetch" in refusal(ask(served, f"{pictures.url}/picture"))
    assert pictures.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_is_fetched_and_seen(fetching, speaker, pictures, stream):
    reply = ask(fetching, f"{pictures.url}/picture", f"{pictures.url}/picture/2", stream=stream)
    assert reply.status_code == 200
    assert [(image.width, image.height) for image in speaker.requests[-1].media] == [(20, 10)] * 2
    assert [path for path, _ in pictures.asked] == ["/picture", "/picture/2"]


def test_a_picture_of_a_response_is_fetched_and_named_in_its_words(fetching, speaker, pictures):
    def ask_for(url):
        content = [{"type": "input_image", "image_url": url}]
        body = {"model": "gemma3n", "input": [{"role": "user", "content": content}]}
        return fetching.http.post("/v1/responses", json=body)

    assert ask_for(f"{pictures.url}/picture").status_code == 200
    assert len(speaker.requests[-1].media) == 1
    assert "404" in refusal(ask_for(f"{pictures.url}/status/404"), "input[0].content[0].image_url")


def test_the_same_picture_is_fetched_once(fetching, speaker, pictures):
    assert ask(fetching, *[f"{pictures.url}/picture"] * 2).status_code == 200
    assert len(speaker.requests[-1].media) == 2
    assert len(pictures.asked) == 1


def test_no_password_and_no_name_of_ours_is_sent(fetching, pictures):
    url = pictures.url.replace("http://", "http://name:secret@")
    assert ask(fetching, f"{url}/picture#part").status_code == 200
    ((path, headers),) = pictures.asked
    assert path == "/picture"
    assert {name.lower() for name in headers} == {"host", "accept", "accept-encoding", "user-agent"}


def test_a_redirect_is_followed_and_looked_at_again(fetching, pictures):
    assert ask(fetching, f"{pictures.url}/to/~picture").status_code == 200
    assert "redirected" in refusal(ask(fetching, f"{pictures.url}/to/~to~~to~~to~~to~~picture"))
    for target in ("file:~~~etc~passwd", "ftp:~~127.0.0.1~x", "data:image~png,x"):
        assert "http and https" in refusal(ask(fetching, f"{pictures.url}/to/{target}"))
    for target in ("http:~~10.0.0.1~x", "http:~~[::1]~x", "http:~~169.254.169.254~latest~meta-data"):
        assert REFUSED in refusal(ask(fetching, f"{pictures.url}/to/{target}"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "017700000001"),
        *("10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"),
        *("255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fc00::1]", "[ff02::1]"),
        *("[::ffff:0:10.0.0.1]", "[64:ff9b:1:1::1]", "[fec0::1]"),
        *("[64:ff9b::10.0.0.1]", "[64:ff9b:1::10.0.0.1]", "[2002:7f00:1::]", "[fd00:ec2::254]"),
    ],
)
def test_what_is_inside_is_none_of_the_clients_business(serve, speaker, host):
    served = serve(load=lambda: speaker.loaded(has_vision=True), allow_remote_media=True)
    began = time.monotonic()
    assert REFUSED in refusal(ask(served, f"http://{host}:8000/x"))
    assert time.monotonic() - began < 5


def test_a_name_counts_as_all_that_it_means_and_is_looked_up_once(serve, speaker, pictures, monkeypatch):
    served = serve(
        load=lambda: speaker.loaded(has_vision=True), allow_remote_media=True, remote_media_networks=LOOPBACK
    )
    port = pictures.server_address[1]
    meant, asked = {"two.example": ["127.0.0.1", "10.0.0.1"], "one.example": ["127.0.0.1"]}, []
    known = socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in meant:
            return known(host, port, *args, **kwargs)
        asked.append(name)
        addresses = meant[name] if asked.count(name) == 1 else ["10.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert REFUSED in refusal(ask(served, f"http://two.example:{port}/picture"))
    assert pictures.asked == []
    assert ask(served, f"http://one.example:{port}/picture").status_code == 200
    assert asked == ["two.example", "one.example"]
    assert pictures.asked[0][1]["Host"] == f"one.example:{port}"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("status/404", "404"),
        ("status/500", "500"),
        ("status/204", "204"),
        ("status/200", "not a picture"),
        ("to/", "302"),
        ("nonsense", "cannot be fetched"),
        ("text", "not a picture"),
        ("large/9", "too large"),
    ],
)
def test_what_cannot_be_fetched_is_named(fetching, pictures, path, says):
    assert says in refusal(ask(fetching, f"{pictures.url}/{path}"))
    assert pictures.num_mb_sent < 9


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http:///x",
        "https://a b/",
        "http://x.invalid/",
        "http://a\0b/",
        "http://127.0.0.1:99999/",
    ],
)
def test_what_is_no_url_is_refused(fetching, url):
    refusal(ask(fetching, url))


def test_pictures_together_are_no_larger_than_a_body_may_be(serve, speaker, pictures, tmp_path):
    key = key_file.add(tmp_path / "keys", "small", max_body_mb=1)
    served = serve(
        load=lambda: speaker.loaded(has_vision=True),
        allow_remote_media=True,
        remote_media_networks=LOOPBACK,
        max_body_mb=8,
        api_keys_file=tmp_path / "keys",
    )
    served.http.headers["Authorization"] = f"Bearer {key}"
    reply = ask(served, f"{pictures.url}/picture", f"{pictures.url}/large/1")
    assert "too large" in refusal(reply, "messages[0].content[2].image_url")


def test_there_is_an_end_of_waiting_and_of_pictures(fetching, pictures, monkeypatch):
    monkeypatch.setattr(remote_media, "FETCH_S", 0.3)
    began = time.monotonic()
    assert "too long" in refusal(ask(fetching, f"{pictures.url}/slow"))
    assert time.monotonic() - began < 5
    many = [f"{pictures.url}/picture/{i}" for i in range(17)]
    assert "16" in refusal(ask(fetching, *many), "messages[0].content[17].image_url")
    assert len(pictures.asked) == 1


def test_what_takes_long_to_read_is_read_beside_the_server_s_own_event_loop(fetching, pictures, monkeypatch):
    monkeypatch.setattr(remote_media, "FETCH_S", 1.0)
    known, threads = remote_media._read, []

    async def read(*args):
        threads.append(threading.current_thread().name)
        return await known(*args)

    monkeypatch.setattr(remote_media, "_read", read)
    assert "too long" in refusal(ask(fetching, f"{pictures.url}/crumbs"))
    assert [name.split("_")[0] for name in threads] == ["prompt"]


def test_a_port_where_nobody_answers_is_told(fetching):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "cannot be fetched" in refusal(ask(fetching, f"http://127.0.0.1:{port}/"))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_the_internet_is_allowed(address):
    assert is_allowed(ipaddress.ip_address(address), ())


def test_only_what_is_listed_is_allowed_besides():
    networks = (ipaddress.ip_network("192.168.1.0/24"),)
    allowed = {
        address: is_allowed(ipaddress.ip_address(address), networks)
        for address in ("192.168.1.7", "::ffff:192.168.1.7", "192.168.2.7", "::1")
    }
    assert allowed == {
        "192.168.1.7": True,
        "::ffff:192.168.1.7": True,
        "192.168.2.7": False,
        "::1": False,
    }
