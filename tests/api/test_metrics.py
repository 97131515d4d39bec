"""What Prometheus and the log are told of requests."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from gemma3n_appliance.api.metrics import Metrics
from gemma3n_appliance.engine.engine import Engine
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.host import key_file
from gemma3n_appliance.protocol.reading import Reading
from tests.waiting import wait_until

DASHBOARD = Path(__file__).parents[2] / "ansible" / "grafana" / "gemma3n.json"
CHAT = {"model": "gemma3n", "messages": [{"role": "user", "content": "Hi"}]}


def told(served, **headers):
    """Every sample by its name and labels, as in the text."""
    reply = served.http.get("/metrics", headers=headers)
    assert reply.status_code == 200
    samples = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


def added(before, after):
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0) and not name.startswith(("process_", "gemma3n_memory"))
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_counted_once_whichever_way_it_is_told(served, stream):
    served.chat()
    before = told(served)
    reply = served.chat(stream=stream, stream_options={"include_usage": True} if stream else None)
    usage = json.loads(reply.text.split("data: ")[-2])["usage"] if stream else reply.json()["usage"]
    new = added(before, told(served))
    assert new["gemma3n_prompt_tokens_total"] == usage["prompt_tokens"]
    assert new["gemma3n_generation_tokens_total"] == usage["completion_tokens"]
    assert new["gemma3n_prefix_cache_queries_total"] == usage["prompt_tokens"]
    assert new.get("gemma3n_prefix_cache_hits_total", 0) == usage["prompt_tokens_details"]["cached_tokens"]
    assert new["gemma3n_request_success_total{finished_reason=stop}"] == 1
    assert new["gemma3n_inter_token_latency_seconds_count"] == usage["completion_tokens"] - 1
    for name in ("queue_time", "prefill_time"):
        assert new[f"gemma3n_request_{name}_seconds_count"] == 1
    model = "gen_ai_operation_name=chat,gen_ai_request_model="
    counts = [name for name in new if re.match(rf"gen_ai_server_\w+_count{{.*{model}", name)]
    assert sorted(name.split("{")[0] for name in counts) == [
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_server_time_per_output_token_seconds_count",
        "gen_ai_server_time_to_first_token_seconds_count",
    ]
    assert new["gemma3n_http_requests_total{method=POST,route=/v1/chat/completions,status=200}"] == 1


def test_answers_and_prompts_together_are_all_counted(served):
    before = told(served)
    body = {"model": "gemma3n", "prompt": ["Hi", "Ho"], "n": 2}
    usage = served.http.post("/v1/completions", json=body).json()["usage"]
    new = added(before, told(served))
    assert new["gemma3n_generation_tokens_total"] == usage["completion_tokens"]
    assert new["gemma3n_prompt_tokens_total"] == usage["prompt_tokens"]
    assert new["gemma3n_request_success_total{finished_reason=stop}"] == 4
    assert any("gen_ai_operation_name=text_completion" in name for name in new)


def durations(samples):
    """How many requests for text ended with which error."""
    found = {}
    for name, value in samples.items():
        if name.startswith("gen_ai_server_request_duration_seconds_count"):
            found[re.search(r"error_type=([^,}]*)", name)[1]] = value
    return found


def test_what_fails_has_a_duration_and_a_reason_but_no_first_token(served):
    before = told(served)
    assert served.chat("x" * 100_000).status_code == 400
    new = added(before, told(served))
    assert durations(new) == {"context_length_exceeded": 1}
    assert not any("first_token" in name or "per_output_token" in name for name in new)


def test_a_stream_that_breaks_off_is_no_success(served, speaker):
    speaker.fail_after = 3
    with capture_logs() as logs:
        assert "engine_error" in served.chat(stream=True).text
        wait_until(lambda: request_lines(logs))
    now = told(served)
    assert durations(now) == {"engine_error": 1}
    assert not any(name.startswith("gemma3n_request_success_total") for name in now)
    assert request_lines(logs)[0]["code"] == "engine_error"
    (error,) = served.http.get("/status").json()["errors"]
    assert (error["code"], error["status"], error["path"]) == ("engine_error", 200, "/v1/chat/completions")


def test_whoever_hangs_up_has_cancelled(served, speaker):
    speaker.answer_endlessly = True
    with served.http.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 1_000}
    ):
        wait_until(lambda: served.engine.num_running == 1)
    wait_until(lambda: durations(told(served)) == {"cancelled": 1})


def test_each_answer_s_tokens_have_times_of_their_own(served):
    served.http.post("/v1/completions", json={"model": "gemma3n", "prompt": ["Hi", "Ho"], "n": 3})
    per_token = {n: v for n, v in told(served).items() if "time_per_output_token_seconds_count" in n}
    assert [*per_token.values()] == [6]


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text; version=abc", "*/*"]
)
def test_no_accept_header_breaks_it(served, accept):
    assert served.http.get("/metrics", headers={"Accept": accept}).status_code == 200


def test_the_status_is_told_in_one_answer(served):
    told_of = served.http.get("/status").json()
    assert told_of["health"]["status"] == served.http.get("/health").json()["status"]
    assert {"memory_total", "memory_available"} <= {reading["name"] for reading in told_of["readings"]}
    assert told_of["errors"] == []
    assert served.chat(temperature=9).status_code == 400
    assert served.http.get("/status").json()["errors"] == []


def test_what_clients_make_up_is_one_label(served):
    before = told(served)
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y/z"):
        served.http.get(path)
    served.http.request("BREW", "/v1/models")
    new = added(before, told(served))
    requests = {name: value for name, value in new.items() if name.startswith("gemma3n_http_requests_total{")}
    assert requests.pop("gemma3n_http_requests_total{method=GET,route=/metrics,status=200}") == 1
    assert requests["gemma3n_http_requests_total{method=GET,route=other,status=404}"] == 2
    assert requests["gemma3n_http_requests_total{method=GET,route=/v1/models/{id},status=404}"] == 2
    assert {name for name in requests if "BREW" in name} == set()


def test_what_runs_and_waits_is_told(serve, speaker):
    served = serve()
    speaker.may_decode.clear()
    slots = speaker.num_slots
    with ThreadPoolExecutor(slots + 1) as pool:
        running = [pool.submit(served.chat) for _ in range(slots + 1)]
        wait_until(lambda: (served.engine.num_running, served.engine.num_waiting) == (slots, 1))
        now = told(served)
        speaker.may_decode.set()
        assert [reply.result().status_code for reply in running] == [200] * (slots + 1)
    assert now["gemma3n_num_requests_running"] == now["gemma3n_num_slots"] == slots
    assert now["gemma3n_num_requests_waiting"] == 1
    assert now["gemma3n_engine_state{state=ready}"] == 1
    assert sum(value for name, value in now.items() if name.startswith("gemma3n_engine_state")) == 1
    assert now["gemma3n_memory_available_bytes"] > 0
    assert now["process_resident_memory_bytes"] > 0


def test_a_reader_of_openmetrics_gets_that(served):
    reply = served.http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")
    assert served.http.get("/metrics").headers["content-type"].startswith("text/plain")


def test_the_metrics_want_a_key_where_all_else_does(serve, tmp_path):
    key = key_file.add(tmp_path / "keys", "prometheus")
    served = serve(api_keys_file=tmp_path / "keys")
    assert served.http.get("/metrics").status_code == 401
    assert told(served, Authorization=f"Bearer {key}")["gemma3n_num_slots"] >= 0


def request_lines(logs):
    return [line for line in logs if line["event"] == "request" and line["path"].startswith("/v1/")]


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_has_one_line_a_request_with_its_tokens_and_times_and_no_content(served, stream):
    with capture_logs() as logs:
        served.chat("a secret question", stream=stream)
        wait_until(lambda: request_lines(logs))
    (line,) = request_lines(logs)
    assert line["prompt_tokens"] > 0
    assert line["completion_tokens"] > 1
    assert line["cached_tokens"] >= 0
    assert 0 <= line["queued_s"] <= line["first_token_s"] <= line["duration_s"]
    assert line["prefill_s"] >= 0
    assert line["decode_s"] >= 0
    assert "secret" not in str(logs)


def test_what_is_no_answer_has_no_tokens_in_the_log(served):
    with capture_logs() as logs:
        served.chat(temperature=5)
        wait_until(lambda: request_lines(logs))
    assert "prompt_tokens" not in request_lines(logs)[0]


def test_the_boards_sensors_are_told_of_by_their_names(speaker):
    readings = [
        Reading("temperature", "celsius", "How hot.", 51.5, "cpu"),
        Reading("temperature", "celsius", "How hot.", 49.0, "gpu"),
        Reading("memory_available", "bytes", "Free.", 5e9, None),
    ]
    engine = Engine(speaker.loaded, max_queue=1, prefill_chunk=8, pulse=Pulse(1.0))
    text = generate_latest(Metrics(engine, "m", lambda: readings).registry).decode()
    for line in (
        'gemma3n_temperature_celsius{sensor="cpu"} 51.5',
        'gemma3n_temperature_celsius{sensor="gpu"} 49.0',
        "gemma3n_memory_available_bytes 5e+09",
    ):
        assert f"\n{line}\n" in text


def test_the_dashboard_reads_what_is_there(served):
    served.chat()
    served.chat(stream=True)
    samples = told(served)
    there = {name.split("{")[0] for name in samples}
    # Of the board's own, a machine for tests may have none.
    there |= {"gemma3n_temperature_celsius", "gemma3n_power_watts"}
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    read = set()
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            # Labels that a query groups or a legend names are those of the samples.
            labels = set(re.findall(r"by \((.*?)\)", target["expr"])) - {"le"}
            labels |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for label in {name for group in labels for name in group.split(", ")} - {"instance", "sensor"}:
                assert any(re.search(rf"[{{,]{label}=", sample) for sample in samples), label
            names = set(re.findall(r"\b(?:gemma3n|gen_ai|process)_\w+(?=[{\[) ]|$)", target["expr"]))
            assert names, target["expr"]
            assert names <= there, target["expr"]
            read |= names
    assert {name.removesuffix("_bucket") for name in read} >= {
        "gen_ai_server_time_to_first_token_seconds",
        "gemma3n_inter_token_latency_seconds",
        "gemma3n_generation_tokens_total",
        "gemma3n_num_requests_waiting",
        "gemma3n_temperature_celsius",
    }
