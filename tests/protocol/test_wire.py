import json
import tracemalloc
from typing import Any

import pytest
from structlog.testing import capture_logs

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.wire import WireModel, parse


class Weights(WireModel):
    """A model whose error paths hold what the client wrote."""

    weights: dict[str, int]

    def check(self) -> None:
        if not self.weights:
            raise InvalidRequestError("No weights.", param="weights")


def refusal(document: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as refused:
        parse(json.dumps(document).encode(), Weights)
    return refused.value


def unknown(**fields: Any) -> list[str]:
    hello = {"role": "user", "content": "Hello"}
    with capture_logs() as logs:
        parse(json.dumps({"model": "m", "messages": [hello]} | fields).encode(), ChatCompletionRequest)
    return [name for line in logs if line["event"] == "unknown_fields_ignored" for name in line["fields"]]


def test_a_model_has_passed_its_own_check_once_it_is_parsed():
    assert parse(b'{"weights": {"a": 1}}', Weights).weights == {"a": 1}
    assert refusal({"weights": {}}).param == "weights"


def test_what_is_refused_is_not_searched_for_unknown_fields():
    with capture_logs() as logs, pytest.raises(InvalidRequestError):
        parse(b'{"weights": {}, "new": 1}', Weights)
    assert not logs


def test_a_key_of_a_megabyte_is_not_sent_back_in_full():
    error = refusal({"weights": {"k" * 2**20: "x"}})
    assert error.param == ("weights." + "k" * 200)[:200]
    assert len(error.message) < 500


def test_unknown_fields_are_named_wherever_a_model_is_read():
    part = {"type": "image_url", "image_url": {"url": "data:,", "zoom": 2}, "cache_control": {}}
    message = {"role": "user", "content": [part], "thoughts": ""}
    fields = {"messages": [message], "stream": True, "stream_options": {"pace": 1}, "later": {"x": 1}}
    assert sorted(unknown(**fields)) == [
        "later",
        "messages[0].content[0].cache_control",
        "messages[0].content[0].image_url.zoom",
        "messages[0].thoughts",
        "stream_options.pace",
    ]
    assert unknown() == []


def test_of_unknown_fields_a_line_holds_only_so_much():
    assert unknown(**{"k" * 2**20: 1}) == ["k" * 199]
    assert len(unknown(**{f"k{i}": 1 for i in range(10_000)})) == 20


@pytest.mark.parametrize("item", ["[]", "{}", '{"":{}}'])
def test_a_body_of_nothing_but_brackets_is_refused_before_it_takes_many_times_its_size(item: str):
    raw = f'{{"weights": {{"a": 1}}, "later": [{",".join([item] * 300_000)}]}}'.encode()
    tracemalloc.start()
    with pytest.raises(InvalidRequestError, match="brackets"):
        parse(raw, Weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
