"""Tokens' probabilities in a stream of text that is held back, cut, and made of parts of characters."""

from collections import deque
from collections.abc import Mapping, Sequence

from .events import ScoredToken
from .runner import Logprobs


class TokenLogprobs:
    """Gives every token's probability out together with the text that it begins in."""

    def __init__(self, pieces: Sequence[bytes], control_tokens: Mapping[int, str]) -> None:
        """As in `LoadedModel`."""
        self._pieces = pieces
        self._control_tokens = control_tokens
        self._num_made = 0
        self._num_given = 0
        self._held: deque[tuple[int, ScoredToken]] = deque()

    def feed(self, token_id: int, logprobs: Logprobs, text: str) -> None:
        """Takes a token and the text that it completed: none, or one that holds earlier tokens' bytes."""
        top = tuple(self._named(*candidate) for candidate in logprobs.top)
        token = self._named(token_id, logprobs.chosen, top)
        # What it completes may begin with marks of broken bytes before it.
        begin = self._num_made + max(0, len(text) - len(token.token))
        self._held.append((begin + bool(token.piece), token))
        self._num_made += len(text)

    def give(self, num_characters: int) -> tuple[ScoredToken, ...]:
        """Returns the tokens that begin before the end of the text given so far, this much more included."""
        self._num_given += num_characters
        given = []
        while self._held and self._held[0][0] <= self._num_given:
            given.append(self._held.popleft()[1])
        return tuple(given)

    def _named(self, token_id: int, logprob: float, top: tuple[ScoredToken, ...] = ()) -> ScoredToken:
        name = self._control_tokens.get(token_id)
        if name is not None:
            return ScoredToken(name, None, logprob, top)
        piece = self._pieces[token_id] if 0 <= token_id < len(self._pieces) else b""
        return ScoredToken(piece.decode(errors="replace"), piece, logprob, top)
