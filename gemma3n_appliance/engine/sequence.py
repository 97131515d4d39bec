"""One choice of a request on its way through the engine: its tokens become events."""

import time
import uuid
from collections.abc import Callable, Iterator

from .detokenize import Detokenizer
from .events import CallDelta, Event, Finished, FinishReason, Started, TextDelta
from .request import GenerationRequest
from .runner import LoadedModel, Logprobs
from .stop import StopStrings
from .token_logprobs import TokenLogprobs
from .tool_calls import Arguments, CallBegun, Piece, ToolCalls

Sink = Callable[[Event | Exception], None]


class Sequence:
    """A choice, the text it has become, and where its events go. Which stage it is in, `Scheduler` knows."""

    def __init__(
        self,
        request: GenerationRequest,
        model: LoadedModel,
        sink: Sink,
        choice: int = 0,
        leader: "Sequence | None" = None,
        *,
        asked_s: float = 0.0,
    ) -> None:
        """``sink`` is called in the engine's thread and must not raise.

        ``leader`` is the same request's first choice, whose prompt is read for this one too. ``asked_s`` is
        when the request came, on the monotonic clock.
        """
        self.request = request.for_choice(choice)
        self.sink = sink
        self.leader = leader
        self.admitted_s = self._asked_s = asked_s
        self.num_cached_tokens = 0
        self.num_completion_tokens = 0
        self.is_finished = False
        self._choice = request.first_choice + choice
        self._eos_token_ids = frozenset[int]() if request.ignore_eos else model.eos_token_ids
        self._detokenizer = Detokenizer(model.pieces)
        self._calls = ToolCalls(request.tools)
        self._num_swallowed = 0
        self._stops = StopStrings(request.stop)
        self._logprobs = TokenLogprobs(model.pieces, model.control_tokens)

    @property
    def num_to_read(self) -> int:
        """Tokens of the prompt that no other has left in the cache."""
        return len(self.request.token_ids) - self.num_cached_tokens

    def accept(self, token_id: int, logprobs: Logprobs | None = None) -> list[Event]:
        """Takes the next token and returns the events it causes; the last of a sequence is ``Finished``."""
        is_first = self.num_completion_tokens == 0
        self.num_completion_tokens += 1
        is_eos = token_id in self._eos_token_ids
        pieces = [] if is_eos else self._read(token_id, logprobs)
        text = self._stops.feed(_text(pieces))
        self.is_finished = (
            is_eos or self._stops.matched or self.num_completion_tokens >= self.request.max_tokens
        )
        if self.is_finished:
            rest = self._calls.feed(self._detokenizer.flush()) + self._calls.flush()
            text += self._stops.feed(_text(rest)) + self._stops.flush()
            pieces += rest
        return [
            *self._started(is_first),
            *self._delta(text),
            *self._call_deltas(pieces),
            *self._finished(is_eos),
        ]

    def _read(self, token_id: int, logprobs: Logprobs | None) -> list[Piece]:
        text = self._detokenizer.feed(token_id)
        if logprobs is not None:
            self._logprobs.feed(token_id, logprobs, text)
        return self._calls.feed(text)

    def _started(self, is_first: bool) -> list[Event]:
        if not is_first:
            return []
        return [
            Started(
                len(self.request.token_ids),
                self.num_cached_tokens,
                self._choice,
                queued_s=self.admitted_s - self._asked_s,
                prefill_s=time.monotonic() - self.admitted_s,
            )
        ]

    def _delta(self, text: str) -> list[Event]:
        logprobs = self._logprobs.give(len(text) + self._calls.num_swallowed - self._num_swallowed)
        self._num_swallowed = self._calls.num_swallowed
        if not text and not logprobs:
            return []
        return [TextDelta(text, self.num_completion_tokens, logprobs, self._choice)]

    def _call_deltas(self, pieces: list[Piece]) -> Iterator[CallDelta]:
        num_tokens = self.num_completion_tokens
        for piece in pieces:
            if isinstance(piece, CallBegun):
                call_id = f"call_{uuid.uuid4().hex[:24]}"
                yield CallDelta(piece.index, num_tokens, call_id, piece.name, choice=self._choice)
            elif isinstance(piece, Arguments):
                yield CallDelta(piece.index, num_tokens, arguments=piece.json, choice=self._choice)

    def _finished(self, is_eos: bool) -> list[Event]:
        if not self.is_finished:
            return []
        return [Finished(self._reason(is_eos), self.num_completion_tokens, self._choice)]

    def _reason(self, is_eos: bool) -> FinishReason:
        if not is_eos and not self._stops.matched:
            return FinishReason.LENGTH
        return FinishReason.TOOL_CALLS if self._calls.num_calls else FinishReason.STOP


def _text(pieces: list[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))
