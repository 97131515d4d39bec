from dataclasses import replace

import pytest

from gemma3n_appliance.engine.events import Finished, FinishReason, Started, TextDelta
from gemma3n_appliance.engine.runner import Logprobs
from gemma3n_appliance.engine.sequence import Sequence
from tests.fakes.runner import EOS, FakeRunner, request

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def events_of(answer: bytes, *, then_eos: bool = True, **fields: object) -> list:
    sequence = Sequence(request(b"Hi", **fields), FakeRunner().loaded(), lambda _: None)
    events = []
    for token_id in [*answer, *[EOS] * then_eos]:
        events += sequence.accept(token_id)
        if sequence.is_finished:
            break
    return events


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (b"ab", {}, [TextDelta("a", 1), TextDelta("b", 2), Finished(STOP, 3)]),
        (b"", {}, [Finished(STOP, 1)]),
        (b"ab", {"max_tokens": 2}, [TextDelta("a", 1), TextDelta("b", 2), Finished(LENGTH, 2)]),
        (b"ab", {"max_tokens": 3}, [TextDelta("a", 1), TextDelta("b", 2), Finished(STOP, 3)]),
        (b"a", {"max_tokens": 3, "ignore_eos": True}, [TextDelta("a", 1)]),
        (b"abc", {"stop": ("bc",)}, [TextDelta("a", 1), Finished(STOP, 3)]),
        (b"abc", {"stop": ("bc",), "max_tokens": 3}, [TextDelta("a", 1), Finished(STOP, 3)]),
        (b"ab", {"stop": ("bc",)}, [TextDelta("a", 1), TextDelta("b", 3), Finished(STOP, 3)]),
        (
            b"ab",
            {"stop": ("bc",), "max_tokens": 2},
            [TextDelta("a", 1), TextDelta("b", 2), Finished(LENGTH, 2)],
        ),
        ("é".encode(), {}, [TextDelta("é", 2), Finished(STOP, 3)]),
        ("é".encode(), {"max_tokens": 1}, [TextDelta("\ufffd", 1), Finished(LENGTH, 1)]),
        ("é".encode()[:1], {"stop": ("\ufffd",)}, [Finished(STOP, 2)]),
        (b"a\xff", {"stop": ("\ufffd",)}, [TextDelta("a", 1), Finished(STOP, 2)]),
    ],
)
def test_tokens_become_events(answer, fields, expected):
    assert events_of(answer, **fields) == [Started(2), *expected]


def test_with_ignore_eos_an_answer_goes_on_to_its_last_token():
    sequence = Sequence(request(b"Hi", 3, ignore_eos=True), FakeRunner().loaded(), lambda _: None)
    events = [event for token_id in (EOS, ord("a"), EOS) for event in sequence.accept(token_id)]
    assert events == [Started(2), TextDelta("a", 2), Finished(LENGTH, 3)]


def test_an_eos_that_has_a_text_of_its_own_is_not_part_of_the_answer():
    model = replace(FakeRunner().loaded(), eos_token_ids=frozenset(b"!"))
    sequence = Sequence(request(b"Hi"), model, lambda _: None)
    events = [event for token_id in b"a!" for event in sequence.accept(token_id)]
    assert events == [Started(2), TextDelta("a", 1), Finished(STOP, 2)]


def pieces_given(answer: list[int], **fields: object) -> list[tuple[str, list[bytes | None]]]:
    """Each delta's text and the pieces of the tokens told of with it."""
    model = replace(FakeRunner().loaded(), control_tokens={EOS: "<eos>", 7: "<bell>"})
    sequence = Sequence(request(b"Hi", **fields), model, lambda _: None)
    events = [event for token in answer for event in sequence.accept(token, Logprobs(-1.0, ()))]
    deltas = [event for event in events if isinstance(event, TextDelta)]
    return [(delta.text, [each.piece for each in delta.logprobs]) for delta in deltas]


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (b"ab", {}, [("a", [b"a"]), ("b", [b"b"])]),
        ("é!".encode(), {}, [("é", [b"\xc3", b"\xa9"]), ("!", [b"!"])]),
        ("é".encode()[:1], {}, [("\ufffd", [b"\xc3"])]),
        (b"abc", {"stop": ("bcd",)}, [("a", [b"a"]), ("bc", [b"b", b"c"])]),
        (b"abc", {"stop": ("bc",)}, [("a", [b"a"])]),
        (b"\xc3ab", {"stop": ("ab",)}, [("\ufffd", [b"\xc3"])]),
    ],
)
def test_a_tokens_probability_comes_with_the_text_that_it_begins_in(answer, fields, expected):
    assert pieces_given([*answer, EOS], **fields) == expected


def test_a_token_without_text_is_told_of_by_its_name():
    model = replace(FakeRunner().loaded(), pieces=[b""] * 257, control_tokens={7: "<bell>"})
    sequence = Sequence(request(b"Hi"), model, lambda _: None)
    _, delta = sequence.accept(7, Logprobs(-1.0, ((7, -1.0), (8, -2.0))))
    told = delta.logprobs[0]
    assert (delta.text, told.token, told.piece, told.logprob) == ("", "<bell>", None, -1.0)
    assert [(each.token, each.piece) for each in told.top] == [("<bell>", None), ("", b"")]
