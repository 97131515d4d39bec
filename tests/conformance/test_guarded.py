"""A demo that lets in whoever has a key, and fetches pictures: keys, metrics, origins, the network."""

import os
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import openai
import pytest
from PIL import Image, ImageDraw

from .conftest import ROOT, running_demo
from .test_chat import LOGS

ANSWER = "The logs are in the journal: run journalctl -u gemma3n-api."


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    return tmp_path_factory.mktemp("guarded") / "keys"


@pytest.fixture(scope="module")
def guarded_url(keys_file):
    settings = {
        "API_KEYS_FILE": str(keys_file),
        "CORS_ORIGINS": "https://page.example",
        "ALLOW_REMOTE_MEDIA": "true",
        "REMOTE_MEDIA_NETWORKS": "127.0.0.0/8",
    }
    with running_demo(keys_file.with_name("log"), **settings) as url:
        yield url


def key_command(keys_file, *arguments):
    """What an owner runs, and what it prints."""
    command = [ROOT / ".venv/bin/gemma3n-appliance", "key", *arguments]
    environment = os.environ | {"API_KEYS_FILE": str(keys_file)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def client_with(key, url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def client(guarded_url, keys_file):
    with client_with(key_command(keys_file, "new", "tests"), guarded_url) as client:
        yield client


def test_a_key_is_made_used_and_revoked_while_the_server_runs(guarded_url, keys_file):
    key = key_command(keys_file, "new", "laptop")
    with client_with(key, guarded_url) as client:
        asked = {"model": "gemma3n", "messages": LOGS, "temperature": 0}
        assert client.chat.completions.create(**asked).choices[0].message.content == ANSWER
        assert [model.id for model in client.models.list()]
        key_command(keys_file, "revoke", "laptop")
        for call in (
            lambda: client.chat.completions.create(**asked),
            lambda: list(client.chat.completions.create(**asked, stream=True)),
            lambda: client.responses.create(model="gemma3n", input="Hi"),
            lambda: client.completions.create(model="gemma3n", prompt="Hi"),
            lambda: client.models.list(),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                call()
            assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/openapi.json", "/v1/models"])
def test_nothing_but_the_health_is_told_without_a_key(guarded_url, client, path):
    assert httpx2.get(f"{guarded_url}{path}").status_code == 401
    assert httpx2.get(f"{guarded_url}{path}", auth=("me", client.api_key)).status_code == 200
    assert httpx2.get(f"{guarded_url}/health").status_code == 200


def test_metrics_count_what_is_answered(guarded_url, client):
    def generated():
        lines = httpx2.get(f"{guarded_url}/metrics", auth=("", client.api_key)).text.splitlines()
        return sum(
            float(line.split()[1]) for line in lines if line.startswith("gemma3n_generation_tokens_total ")
        )

    before = generated()
    reply = client.chat.completions.create(model="gemma3n", messages=LOGS)
    assert generated() == before + reply.usage.completion_tokens


def test_a_page_of_another_origin_is_told_whether_it_may_ask(guarded_url):
    def allowed(origin):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        reply = httpx2.options(f"{guarded_url}/v1/chat/completions", headers=asked)
        return reply.headers.get("access-control-allow-origin")

    assert allowed("https://page.example") == "https://page.example"
    assert allowed("https://other.example") is None


def test_a_picture_is_fetched_and_seen_as_if_it_had_been_sent(client, tmp_path):
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((12, 12, 52, 52), fill="blue")
    image.save(tmp_path / "square.png")

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/square.png"
            content = [
                {"type": "text", "text": "What's in this image?"},
                {"type": "image_url", "image_url": {"url": url}},
            ]
            reply = client.chat.completions.create(
                model="gemma3n", temperature=0, messages=[{"role": "user", "content": content}]
            )
        finally:
            server.shutdown()
            thread.join()
    assert reply.choices[0].message.content == "A blue square."
