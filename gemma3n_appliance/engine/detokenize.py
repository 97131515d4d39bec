"""Token ids to text, incrementally: a character is given once all its bytes are there, and never before."""

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Turns one sequence's token ids into text. Broken UTF-8 becomes U+FFFD; nothing raises."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """``pieces`` maps a token id to the bytes it stands for."""
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Returns the text that ``token_id`` completes; ids beyond the vocabulary stand for none."""
        known = 0 <= token_id < len(self._pieces)
        return self._decoder.decode(self._pieces[token_id] if known else b"")

    def flush(self) -> str:
        """Returns what an unfinished character leaves behind."""
        return self._decoder.decode(b"", final=True)
