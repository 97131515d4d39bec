"""Replies to prompts without a chat's form."""

import codecs
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..engine.events import Event, Finished, FinishReason, ScoredToken, Started, TextDelta
from ..protocol.completion_reply import Completion, CompletionChoice, CompletionLogprobs
from .told import SYSTEM_FINGERPRINT, Tally, Told, finite


@dataclass(frozen=True)
class CompletionReply:
    """What all of a reply's chunks have in common; ``model`` echoes the request's.

    ``echoes`` are the prompts' texts where answers begin with them, else empty.
    """

    model: str
    num_prompts: int = 1
    num_choices: int = 1
    echoes: tuple[str, ...] = ()
    has_logprobs: bool = False
    has_usage: bool = False
    has_usage_so_far: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, "_Offset"] = field(default_factory=lambda: defaultdict(_Offset))

    def tell(self, event: Event, tally: Tally) -> list[Completion]:
        """See `ChunkedReply`: a beginning is told only where there is an echo."""
        choice = self._choice(event)
        if choice is None:
            return []
        chunk = self._completion([choice])
        if self.has_usage:
            chunk = chunk.model_copy(update={"usage": tally.usage() if self.has_usage_so_far else None})
        return [chunk]

    def tell_end(self, tally: Tally) -> list[Completion]:
        """See `ChunkedReply`: usage, if the client asked for it."""
        return [self._completion([]).model_copy(update={"usage": tally.usage()})] if self.has_usage else []

    def whole(self, told: Told) -> Completion:
        """See `ChunkedReply`."""
        choices = [self._whole_choice(index, each) for index, each in told.events.items()]
        return self._completion(choices).model_copy(update={"usage": told.tally.usage()})

    def _echo(self, choice: int) -> str:
        return self.echoes[choice // self.num_choices] if self.echoes else ""

    def _choice(self, event: Event) -> CompletionChoice | None:
        text, logprobs, reason = "", None, None
        match event:
            case Started():
                text = self._echo(event.choice)
                if not text:
                    return None
            case TextDelta():
                text = event.text
                logprobs = self._logprobs(event.choice, event.logprobs) if event.logprobs else None
            case Finished():
                reason = _reason(event)
            case _:
                return None
        return CompletionChoice(index=event.choice, text=text, logprobs=logprobs, finish_reason=reason)

    def _whole_choice(self, index: int, events: Sequence[Event]) -> CompletionChoice:
        deltas = [event for event in events if isinstance(event, TextDelta)]
        tokens = [token for delta in deltas for token in delta.logprobs]
        (end,) = (event for event in events if isinstance(event, Finished))
        return CompletionChoice(
            index=index,
            text=self._echo(index) + "".join(delta.text for delta in deltas),
            logprobs=self._logprobs(index, tokens) if self.has_logprobs else None,
            finish_reason=_reason(end),
        )

    def _logprobs(self, choice: int, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
        begin = len(self._echo(choice))
        return CompletionLogprobs(
            tokens=[_name(token) for token in tokens],
            token_logprobs=[finite(token.logprob) for token in tokens],
            top_logprobs=[_by_name(token, *token.top) for token in tokens],
            text_offset=[begin + self._offsets[choice].of(token) for token in tokens],
        )

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=SYSTEM_FINGERPRINT,
        )


class _Offset:
    """Counts the characters of a text token by token; parts of a character are at the place of its last."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = 0

    def of(self, token: ScoredToken) -> int:
        """Returns where the next token begins."""
        begin = self._num_characters
        self._num_characters += len(self._decoder.decode(token.piece or b""))
        return begin


def _by_name(*tokens: ScoredToken) -> dict[str, float]:
    """Returns tokens' probabilities; of several with one name, the first's."""
    named: dict[str, float] = {}
    for token in tokens:
        named.setdefault(_name(token), finite(token.logprob))
    return named


def _name(token: ScoredToken) -> str:
    """Returns a token's text, or its bytes as OpenAI writes them where they are no text."""
    try:
        return token.token if token.piece is None else token.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.piece or b"")


def _reason(event: Finished) -> Literal["stop", "length"]:
    return "length" if event.reason is FinishReason.LENGTH else "stop"
