"""What the server says of itself, and whether it keeps to that whatever it is sent."""

import json
from collections import Counter

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode, checks
from schemathesis.config import SchemathesisConfig

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.completion_request import CompletionRequest
from gemma3n_appliance.protocol.other_routes import refuse_of_other_routes
from gemma3n_appliance.protocol.responses_request import ResponsesRequest
from gemma3n_appliance.protocol.tokens import DetokenizeRequest, TokenizeRequest
from gemma3n_appliance.protocol.wire import parse

from .conftest import running_demo
from .test_chat import LOGS

NUM_REQUESTS = 25
# Too large a list can be too large a body as well: whichever is said, it is refused.
REFUSED = {"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}}


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
    ("/metrics", "GET"),
    ("/status", "GET"),
    ("/health", "GET"),
    ("/health/ready", "GET"),
]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def test_every_operation_is_driven_below(brief_url):
    paths = httpx2.get(f"{brief_url}/openapi.json").json()["paths"]
    assert [(path, method.upper()) for path, methods in paths.items() for method in methods] == OPERATIONS


def drive(brief_url, path, method, mode, strategy, more_checks=()):
    """Sends requests that schemathesis draws by the description, and returns how they were answered."""
    config = SchemathesisConfig.from_dict(REFUSED)
    operation = schemathesis.openapi.from_url(f"{brief_url}/openapi.json", config=config)[path][method]
    statuses = Counter()

    @settings(
        max_examples=NUM_REQUESTS,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy(operation.as_strategy(generation_mode=mode)))
    def send(case):
        statuses[case.call_and_validate(checks=[*CHECKS, *more_checks], timeout=120).status_code] += 1

    send()
    return statuses


def as_it_comes(cases):
    def named(case):
        model = case.body.get("model") if isinstance(case.body, dict) else None
        if isinstance(model, str) and model:
            case.body["model"] = "gemma3n"  # or all would end where the model is looked for
        return case

    return cases.map(named)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_the_answer_is_what_the_description_says(brief_url, path, method, mode):
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("there is nothing to get wrong")
    # What the description calls wrong is refused.
    more = [checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else []
    statuses = drive(brief_url, path, method, mode, as_it_comes, more)
    assert statuses.total() >= (1 if method == "GET" else NUM_REQUESTS)


# What a description cannot say: what is worth answering. The other fields are schemathesis'.
TEXT = st.text(max_size=20)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT},
        optional={"name": TEXT},
    ),
    min_size=1,
    max_size=4,
)
IDS = st.lists(st.integers(4, 200), min_size=1, max_size=9)
WORTH_ANSWERING = {
    "/v1/chat/completions": (ChatCompletionRequest, {"messages": MESSAGES}),
    "/v1/responses": (ResponsesRequest, {"input": TEXT | MESSAGES}),
    "/v1/completions": (CompletionRequest, {"prompt": TEXT | IDS | st.lists(TEXT, min_size=1, max_size=3)}),
    "/tokenize": (TokenizeRequest, {}),
    "/detokenize": (DetokenizeRequest, {"tokens": IDS}),
}


@pytest.mark.parametrize("path", WORTH_ANSWERING)
def test_what_is_right_and_worth_answering_is_answered(brief_url, path):
    kind, fields = WORTH_ANSWERING[path]
    check_sent = refuse_of_other_routes if path.startswith("/v1") else None

    def is_taken(case):
        try:
            parse(json.dumps(case.body).encode(), kind, check_sent)
        except InvalidRequestError:
            return False
        return True

    def sensible(cases):
        def filled(case, contents):
            case.body = {**case.body, "model": "gemma3n", **contents}
            return case

        return st.builds(filled, cases, st.fixed_dictionaries(fields)).filter(is_taken)

    statuses = drive(brief_url, path, "POST", GenerationMode.POSITIVE, sensible)
    assert statuses.total() >= NUM_REQUESTS
    assert statuses[200] >= NUM_REQUESTS / 2, statuses


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
