"""What the server says of itself, and whether it keeps to that whatever it is sent."""

import json

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode, checks

from .conftest import running_demo
from .test_chat import LOGS

NUM_REQUESTS = 40


@pytest.fixture(scope="module")
def brief_url(tmp_path_factory):
    """Where a demo answers that says little, so that many requests can be sent."""
    with running_demo(tmp_path_factory.mktemp("brief") / "log", MAX_LENGTH="2", CONTEXT_LENGTH="256") as url:
        yield url


OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/health", "GET"),
    ("/health/ready", "GET"),
]


def test_every_operation_is_driven_below(brief_url):
    paths = httpx2.get(f"{brief_url}/openapi.json").json()["paths"]
    assert [(path, method.upper()) for path, methods in paths.items() for method in methods] == OPERATIONS


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_the_answer_is_what_the_description_says(brief_url, path, method, mode):
    operation = schemathesis.openapi.from_url(f"{brief_url}/openapi.json")[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("there is nothing to get wrong")

    @settings(
        max_examples=NUM_REQUESTS,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def drive(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "gemma3n"  # or all would end where the model is looked for
        case.call_and_validate(
            checks=[
                checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
            timeout=120,
        )

    drive()


def validator(description, name):
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **description})


@pytest.mark.parametrize(
    ("path", "body", "takes", "answers", "says"),
    [
        (
            "/v1/chat/completions",
            {"messages": LOGS, "logprobs": True, "top_logprobs": 2},
            "ChatCompletionRequest",
            "ChatCompletion",
            "ChatCompletionChunk",
        ),
        ("/v1/responses", {"input": "Hi"}, "ResponsesRequest", "Response", "ResponseEvent"),
        (
            "/v1/completions",
            {"prompt": ["Hi", "Ho"], "logprobs": 2},
            "CompletionRequest",
            "Completion",
            "Completion",
        ),
        ("/tokenize", {"prompt": "Hi"}, "TokenizeRequest", "Tokenized", None),
        ("/detokenize", {"tokens": [7]}, "DetokenizeRequest", "Detokenized", None),
    ],
)
def test_real_requests_and_replies_are_as_described(brief_url, path, body, takes, answers, says):
    description = httpx2.get(f"{brief_url}/openapi.json").json()
    body = {"model": "gemma3n", **body}
    validator(description, takes).validate(body)
    reply = httpx2.post(f"{brief_url}{path}", json=body)
    assert reply.status_code == 200
    validator(description, answers).validate(reply.json())
    refused = httpx2.post(f"{brief_url}{path}", json={**body, "model": ""})
    assert not validator(description, takes).is_valid({**body, "model": ""})
    validator(description, "ErrorReply").validate(refused.json())
    if says:
        stream = httpx2.post(f"{brief_url}{path}", json={**body, "stream": True}).text
        said = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
        assert len(said) > 2
        for chunk in said:
            validator(description, says).validate(json.loads(chunk))
