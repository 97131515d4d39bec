"""Who may ask, how much at once, and from which web pages."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.host import key_file
from tests.waiting import wait_until

HELLO = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "gemma3n", "messages": HELLO}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def refusal(reply, status):
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    return reply.json()["error"]


def test_without_a_key_only_the_health_is_told(serve, path):
    key_file.add(path, "laptop")
    served = serve(api_keys_file=path)
    for method, route in [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/v1/models"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("PUT", "/health/../v1/models"),
        ("GET", "/healthy"),
    ]:
        reply = served.http.request(method, route, json=CHAT if method == "POST" else None)
        error = refusal(reply, 401)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert "Bearer" in error["message"]
        assert reply.headers["www-authenticate"] == "Bearer"
    assert served.http.get("/health").status_code == 200
    assert served.http.get("/health/ready/").status_code in (200, 503)


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic KEY"},
        {"Authorization": "KEY"},
        {"Authorization": "Bearer KEY extra"},
        {"Authorization": "Bearer KEYx"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-Api-Key": "KEY"},
    ],
    ids=str,
)
def test_nothing_but_a_key_is_a_key(serve, path, header):
    key = key_file.add(path, "laptop")
    served = serve(api_keys_file=path)
    sent = {
        name: value.replace("KEY", key) if isinstance(value, str) else value for name, value in header.items()
    }
    error = refusal(served.http.post("/v1/chat/completions", json=CHAT, headers=sent), 401)
    assert error["code"] == "invalid_api_key"
    assert key not in error["message"]


def test_the_official_client_takes_a_key_and_tells_a_wrong_one(serve, path):
    key = key_file.add(path, "laptop")
    served = serve(api_keys_file=path)
    url = f"http://127.0.0.1:{served.port}/v1"
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(**CHAT).choices[0].message.content
        assert client.models.list().data
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.chat.completions.create(**CHAT)
    assert refused.value.code == "invalid_api_key"


def test_a_browser_sends_a_key_as_a_password_but_not_for_other_sites_pages(serve, path):
    key = key_file.add(path, "laptop")
    served = serve(api_keys_file=path)

    def status(password, **headers):
        return served.http.get("/v1/models", auth=("whoever", password), headers=headers).status_code

    assert (status(key), status("wrong"), status("")) == (200, 401, 401)
    assert status(key, **{"Sec-Fetch-Site": "same-origin"}) == 200
    assert status(key, **{"Sec-Fetch-Site": "cross-site"}) == 401
    assert status(key, Origin="http://other.example") == 401
    assert status(key, Origin=f"http://127.0.0.1:{served.port}") == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert status(key, **link) == 200
    assert served.http.post("/tokenize", json={"prompt": ""}, auth=("", key), headers=link).status_code == 401
    assert served.http.get("/").headers["www-authenticate"].startswith("Basic ")
    assert served.http.get("/v1/models").headers["www-authenticate"] == "Bearer"
    assert served.http.get("/", auth=("", key)).status_code == 200


def test_keys_come_and_go_while_the_server_runs(serve, path):
    first = key_file.add(path, "first")
    served = serve(api_keys_file=path)

    def status(key):
        return served.http.get("/v1/models", headers=bearer(key)).status_code

    second = key_file.add(path, "second")
    assert (status(first), status(second)) == (200, 200)
    key_file.revoke(path, "first")
    assert (status(first), status(second)) == (401, 200)


def test_the_log_names_the_key_and_never_shows_it(serve, path):
    key = key_file.add(path, "laptop")
    served = serve(api_keys_file=path)
    with capture_logs() as logs:
        assert served.http.get("/v1/models", headers=bearer(key)).status_code == 200
        assert served.http.get("/v1/models", headers=bearer(key + "x")).status_code == 401
        wait_until(lambda: len([line for line in logs if line["event"] == "request"]) == 2)
    requests = [line for line in logs if line["event"] == "request"]
    assert [line.get("key") for line in requests] == ["laptop", None]
    assert key not in str(logs)


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_has_so_many_requests_at_once_to_the_ends_of_their_streams(serve, speaker, path, stream):
    keys = {name: key_file.add(path, name) for name in ("a", "b")}
    wide = key_file.add(path, "wide", max_concurrent=3)
    served = serve(api_keys_file=path, max_concurrent_per_key=1)
    speaker.may_decode.clear()

    def ask(key):
        return served.http.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=bearer(key))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask, keys["a"])]
        wait_until(lambda: served.engine.num_running == 1)
        error = refusal(ask(keys["a"]), 429)
        assert (error["type"], error["code"]) == ("rate_limit_error", "server_overloaded")
        assert "'a'" in error["message"]
        with capture_logs() as logs:
            assert int(ask(keys["a"]).headers["retry-after"]) >= 1
            wait_until(lambda: any(line["event"] == "request" for line in logs))
        assert next(line["key"] for line in logs if line["event"] == "request") == "a"
        assert served.http.get("/v1/models", headers=bearer(keys["a"])).status_code == 200  # looking is free
        running += [pool.submit(ask, key) for key in (keys["b"], wide, wide)]
        wait_until(lambda: served.engine.num_running + served.engine.num_waiting == 4)
        speaker.may_decode.set()
        assert [reply.result().status_code for reply in running] == [200] * 4
    assert ask(keys["a"]).status_code == 200


def test_whoever_hangs_up_gives_the_place_back(serve, speaker, path):
    key = key_file.add(path, "a", max_concurrent=1)
    served = serve(api_keys_file=path)
    speaker.may_decode.clear()
    with served.http.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"stream": True}, headers=bearer(key)
    ):
        assert count(served, key) == 429
    wait_until(lambda: count(served, key) == 200)


def count(served, key):
    """How it is answered that a key's owner wants tokens counted."""
    return served.http.post("/tokenize", json={"prompt": "Hi"}, headers=bearer(key)).status_code


def test_a_key_has_a_largest_body_of_its_own(serve, path):
    small, large = key_file.add(path, "small", max_body_mb=1), key_file.add(path, "large", max_body_mb=4)
    served = serve(api_keys_file=path, max_body_mb=2)
    body = CHAT | {"messages": [{"role": "user", "content": "x" * (3 * 2**19)}]}
    assert refusal(served.http.post("/v1/chat/completions", json=body, headers=bearer(small)), 413)
    # Longer than the context, but read.
    error = refusal(served.http.post("/v1/chat/completions", json=body, headers=bearer(large)), 400)
    assert error["code"] == "context_length_exceeded"


PAGE = "https://page.example"


def preflight(served, origin):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    return served.http.options("/v1/chat/completions", headers=headers).headers


def test_no_web_page_is_allowed_unless_it_is_listed(serve, served):
    assert "access-control-allow-origin" not in preflight(served, PAGE)
    assert "access-control-allow-origin" not in served.http.get("/health", headers={"Origin": PAGE}).headers
    other = serve(cors_origins=("https://other.example",))
    assert "access-control-allow-origin" not in preflight(other, PAGE)


@pytest.mark.parametrize(("origins", "told"), [(("https://a.example", PAGE), PAGE), (("*",), "*")])
def test_a_listed_page_may_ask_with_its_key_and_read_errors(serve, path, origins, told):
    key = key_file.add(path, "page")
    served = serve(api_keys_file=path, cors_origins=origins)
    allowed = preflight(served, PAGE)
    assert allowed["access-control-allow-origin"] == told
    assert "POST" in allowed["access-control-allow-methods"]
    assert allowed["access-control-allow-headers"] == "authorization, content-type"
    for headers, status in ((bearer(key), 200), (bearer("wrong"), 401)):
        reply = served.http.post("/v1/chat/completions", json=CHAT, headers=headers | {"Origin": PAGE})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == told
        assert "x-request-id" in reply.headers["access-control-expose-headers"]
        assert ("vary" in reply.headers) == (told != "*")
