import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemma3n_appliance.engine.stop import StopStrings


def naive(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """Reads one character at a time and looks at everything so far."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


def passed(stops: tuple[str, ...], *pieces: str) -> tuple[str, bool]:
    matcher = StopStrings(stops)
    text = "".join(map(matcher.feed, pieces)) + matcher.flush()
    return text, matcher.matched


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ((), "abc", "abc"),
        (("",), "abc", "abc"),
        (("b",), "abc", "a"),
        (("xyz",), "abc", "abc"),
        (("END",), "the EN", "the EN"),
        (("END",), "the EEND", "the E"),
        (("aab",), "aaab", "a"),
        (("\n\n",), "a\nb\n\nc", "a\nb"),
        (("c", "b"), "abc", "a"),
        (("bc", "abcd"), "abcd", "a"),
        (("bc", "abc"), "abcd", ""),
        (("👍🏽",), "ok 👍👍🏽", "ok 👍"),
    ],
)
def test_text_ends_before_the_stop_string_that_is_complete_first_wherever_it_is_cut(stops, text, expected):
    assert naive(stops, text)[0] == expected
    for at in range(len(text) + 1):
        assert passed(stops, text[:at], text[at:]) == (expected, expected != text)
    assert passed(stops, *text) == (expected, expected != text)


LETTERS = st.text("ab", max_size=5)


@given(st.lists(LETTERS, max_size=4).map(tuple), st.lists(LETTERS, max_size=12))
@example(("b", "abc"), ["a", "b", "c"])
@example(("b", "abc"), ["abc"])
def test_any_text_cut_anyhow_is_stopped_as_if_read_by_the_letter(stops, pieces):
    assert passed(stops, *pieces) == naive(stops, "".join(pieces))


@given(st.lists(LETTERS.filter(bool), min_size=1, max_size=4).map(tuple), st.lists(LETTERS, max_size=12))
def test_what_is_given_out_is_never_taken_back_and_held_back_no_longer_than_needed(stops, pieces):
    matcher = StopStrings(stops)
    given = so_far = ""
    for piece in pieces:
        given += matcher.feed(piece)
        so_far += piece
        if matcher.matched:
            break
        held = so_far[len(given) :]
        assert so_far == given + held
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(so_far[start:]) for stop in stops for start in range(len(given)))


def test_nothing_follows_a_stop_string():
    matcher = StopStrings(("b",))
    assert matcher.feed("abc") == "a"
    assert (matcher.feed("more"), matcher.flush()) == ("", "")
