import itertools
import json

import pytest

from gemma3n_appliance.engine.events import CallDelta, Finished, FinishReason, ScoredToken, Started, TextDelta
from gemma3n_appliance.engine.runner import Logprobs
from gemma3n_appliance.engine.sequence import Sequence
from gemma3n_appliance.engine.tool_calls import Arguments, CallBegun, ToolCalls, head
from tests.fakes.runner import EOS, FakeRunner, request

NAMES = ("get", "get_all")
TRICKY = json.dumps({"text": 'brackets ]} and "quotes" \\', "list": [{"a": {}}], "empty": []})


def call(name: str, arguments: str) -> str:
    return f"{head(name)}{arguments}}}"


def merged(pieces: list) -> list:
    """Joins neighbours, which may be cut anywhere."""
    result = []
    for piece in pieces:
        last = result[-1] if result else None
        if isinstance(piece, str) and isinstance(last, str):
            result[-1] += piece
        elif isinstance(piece, Arguments) and isinstance(last, Arguments) and last.index == piece.index:
            result[-1] = Arguments(piece.index, last.json + piece.json)
        else:
            result.append(piece)
    return result


def read(*parts: str, names: tuple[str, ...] = NAMES) -> list:
    calls = ToolCalls(names)
    return merged([piece for part in parts for piece in calls.feed(part)] + calls.flush())


CASES = [
    ("", []),
    ("Hello {there}.", ["Hello {there}."]),
    (call("get", "{}"), [CallBegun(0, "get"), Arguments(0, "{}")]),
    (call("get_all", TRICKY), [CallBegun(0, "get_all"), Arguments(0, TRICKY)]),
    (
        call("get", '{"a": 1}') + "\n" + call("get_all", "{}") + "\n" + call("get", TRICKY),
        [
            CallBegun(0, "get"),
            Arguments(0, '{"a": 1}'),
            CallBegun(1, "get_all"),
            Arguments(1, "{}"),
            CallBegun(2, "get"),
            Arguments(2, TRICKY),
        ],
    ),
    (call("other", "{}"), [call("other", "{}")]),
    ('{"answer": 42}', ['{"answer": 42}']),
    (" " + call("get", "{}"), [" " + call("get", "{}")]),
    # Cut off by its length:
    ('{"name": "ge', ['{"name": "ge']),
    (head("get"), [CallBegun(0, "get")]),
    (head("get") + '{"a": [', [CallBegun(0, "get"), Arguments(0, '{"a": [')]),
    (call("get", "{}") + '\n{"name": ', [CallBegun(0, "get"), Arguments(0, "{}")]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_calls_are_told_from_text(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_where_the_text_is_cut_makes_no_difference(text, expected):
    assert read(*text) == expected
    for cut in range(len(text)):
        assert read(text[:cut], text[cut:]) == expected


def test_nothing_is_held_that_cannot_be_a_call_any_more():
    calls = ToolCalls(NAMES)
    assert calls.feed('{"nam') == []
    assert calls.feed("ing") == ['{"naming']
    assert calls.feed('{"name": "get"') == ['{"name": "get"']


def test_arguments_come_as_they_are_written():
    calls = ToolCalls(NAMES)
    calls.feed(head("get"))
    assert [calls.feed(part) for part in ('{"a', '": 1', "}", "}")] == [
        [Arguments(0, '{"a')],
        [Arguments(0, '": 1')],
        [Arguments(0, "}")],
        [],
    ]


def test_without_tools_everything_is_text():
    assert read(call("get", "{}"), names=()) == [call("get", "{}")]


def events_of(answer: str, *, logprobs: Logprobs | None = None, then_eos: bool = True, **fields) -> list:
    sequence = Sequence(request(b"Hi", **{"max_tokens": 500} | fields), FakeRunner().loaded(), lambda _: None)
    events = []
    for token_id in [*answer.encode(), *[EOS] * then_eos]:
        if not sequence.is_finished:
            events += sequence.accept(token_id, logprobs)
    return events


def test_a_call_becomes_events_and_a_reason_to_end():
    started, begun, *arguments, finished = events_of(call("get", '{"a": 1}'), tools=NAMES)
    assert started == Started(2)
    assert (begun.index, begun.name, begun.arguments) == (0, "get", "")
    assert begun.call_id.startswith("call_")
    assert "".join(event.arguments for event in arguments) == '{"a": 1}'
    assert {(event.call_id, event.name) for event in arguments} == {(None, None)}
    assert finished == Finished(FinishReason.TOOL_CALLS, len(call("get", '{"a": 1}')) + 1)


def test_every_call_has_an_id_of_its_own():
    events = events_of("\n".join([call("get", "{}")] * 3), tools=NAMES)
    ids = [event.call_id for event in events if isinstance(event, CallDelta) and event.call_id]
    assert len(set(ids)) == 3


def test_a_call_that_is_cut_off_ends_by_length_and_a_text_as_ever():
    assert events_of(call("get", "{}"), tools=NAMES, max_tokens=30)[-1].reason is FinishReason.LENGTH
    assert events_of("Hello", tools=NAMES) == events_of("Hello")


def test_a_stop_string_ends_a_text_and_never_a_call():
    events = events_of(call("get", '{"a": "stop"}'), tools=NAMES, stop=("stop", "}"))
    assert events[-1].reason is FinishReason.TOOL_CALLS
    assert "".join(event.arguments for event in events if isinstance(event, CallDelta)) == '{"a": "stop"}'
    assert events_of("a stop", tools=NAMES, stop=("stop",)) == events_of("a stop", stop=("stop",))


def test_all_tokens_of_a_call_have_their_logprobs():
    text = "\n".join([call("get", '{"a": 1}'), call("get", "{}")])
    events = events_of(text, tools=NAMES, logprobs=Logprobs(-0.5, ()), num_top_logprobs=0)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    scored = list(itertools.chain.from_iterable(delta.logprobs for delta in deltas))
    assert scored == [ScoredToken(character, character.encode(), -0.5) for character in text]
    assert not any(delta.text for delta in deltas)


def test_the_tokens_of_half_a_call_have_their_logprobs_too():
    text = "\n".join([call("get", "{}"), '{"name": "ge'])
    fields = {"tools": NAMES, "num_top_logprobs": 0, "max_tokens": len(text)}
    events = events_of(text, logprobs=Logprobs(-0.5, ()), **fields)
    assert events[-1].reason is FinishReason.LENGTH
    assert sum(len(event.logprobs) for event in events if isinstance(event, TextDelta)) == len(text)
