import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3n_appliance.engine.detokenize import Detokenizer

TEXT = "Grüße, 日本 👩‍🚀!"


def detokenize(pieces: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(pieces)
    return [*map(detokenizer.feed, range(len(pieces))), detokenizer.flush()]


@pytest.mark.parametrize("at", range(len(TEXT.encode()) + 1))
def test_text_cut_anywhere_comes_out_in_whole_characters(at):
    encoded = TEXT.encode()
    given = detokenize([encoded[:at], encoded[at:]])
    assert "".join(given) == TEXT
    assert "\ufffd" not in "".join(given)
    assert given[0] == encoded[:at].decode(errors="ignore")


def test_text_comes_out_as_soon_as_its_characters_are_complete():
    assert detokenize([bytes([byte]) for byte in "aé👍".encode()]) == ["a", "", "é", "", "", "", "👍", ""]


@given(st.lists(st.binary(max_size=6)))
def test_any_bytes_cut_anyhow_are_what_they_are_in_one_piece(pieces):
    assert "".join(detokenize(pieces)) == b"".join(pieces).decode(errors="replace")


def test_an_unfinished_character_ends_as_a_replacement():
    assert detokenize(["👍".encode()[:3]]) == ["", "\ufffd"]


@pytest.mark.parametrize("token_id", [-1, 2, 262_400])
def test_an_id_beyond_the_vocabulary_is_no_text_and_breaks_none(token_id):
    detokenizer = Detokenizer([b"\xc3", b"\xa9"])
    assert [detokenizer.feed(each) for each in (0, token_id, 1)] == ["", "", "é"]
