"""Chat replies. A plain reply is a fold over the very events that a stream would send."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..engine.events import CallDelta, Event, Finished, ScoredToken, Started, TextDelta
from ..protocol.chat_reply import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FunctionCallDelta,
    OutputFunction,
    OutputToolCall,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from ..protocol.reply import Usage
from .told import SYSTEM_FINGERPRINT, Tally, Told, finite


@dataclass(frozen=True)
class ChatReply:
    """What all of a reply's chunks have in common; ``model`` echoes the request's.

    With ``has_usage`` a stream ends with what it has cost, and where it ``has_usage_so_far`` all chunks tell;
    else these carry ``usage: null``, as OpenAI's do.
    """

    model: str
    num_image_tokens: int = 0
    num_audio_tokens: int = 0
    num_choices: int = 1
    num_prompts: ClassVar[int] = 1
    has_logprobs: bool = False
    may_call: bool = False
    has_usage: bool = False
    has_usage_so_far: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def tell(self, event: Event, tally: Tally) -> list[ChatCompletionChunk]:
        """See `ChunkedReply`: every event has its chunk."""
        chunk = self._chunk([_choice_of(event, may_call=self.may_call)])
        if self.has_usage:
            chunk = chunk.model_copy(update={"usage": self._usage(tally) if self.has_usage_so_far else None})
        return [chunk]

    def tell_end(self, tally: Tally) -> list[ChatCompletionChunk]:
        """See `ChunkedReply`: usage, if the client asked for it."""
        return [self._chunk([]).model_copy(update={"usage": self._usage(tally)})] if self.has_usage else []

    def whole(self, told: Told) -> ChatCompletion:
        """See `ChunkedReply`."""
        choices = [_whole_choice(each, has_logprobs=self.has_logprobs) for each in told.events.values()]
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=self._usage(told.tally),
            system_fingerprint=SYSTEM_FINGERPRINT,
        )

    def _usage(self, tally: Tally) -> Usage:
        return tally.usage(num_image_tokens=self.num_image_tokens, num_audio_tokens=self.num_audio_tokens)

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=SYSTEM_FINGERPRINT,
        )


def _choice_of(event: Event, *, may_call: bool) -> ChunkChoice:
    """Returns what an event adds to its choice, which may have no text where it ``may_call`` tools."""
    delta, logprobs, reason = Delta(), None, None
    match event:
        case Started():
            delta = Delta(role="assistant", content=None if may_call else "")
        case TextDelta():
            delta = Delta(content=event.text)
            logprobs = _logprobs(event.logprobs) if event.logprobs else None
        case CallDelta():
            delta = Delta(tool_calls=[_call_delta(event)])
        case Finished():
            reason = event.reason.value
    return ChunkChoice(index=event.choice, delta=delta, logprobs=logprobs, finish_reason=reason)


def _whole_choice(events: Sequence[Event], *, has_logprobs: bool) -> Choice:
    """Returns what all events of one choice amount to, its end among them."""
    deltas = [event for event in events if isinstance(event, TextDelta)]
    end = next(event for event in events if isinstance(event, Finished))
    text = "".join(delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.logprobs]
    calls = _whole_calls([event for event in events if isinstance(event, CallDelta)])
    message = AssistantMessage(role="assistant", content=None if calls and not text else text, refusal=None)
    return Choice(
        index=end.choice,
        message=message.model_copy(update={"tool_calls": calls}) if calls else message,
        logprobs=_logprobs(tokens) if has_logprobs else None,
        finish_reason=end.reason.value,
    )


def _call_delta(event: CallDelta) -> ToolCallDelta:
    if event.call_id is None:
        return ToolCallDelta(index=event.index, function=FunctionCallDelta(arguments=event.arguments))
    function = FunctionCallDelta(name=event.name, arguments=event.arguments)
    return ToolCallDelta(index=event.index, id=event.call_id, type="function", function=function)


def _whole_calls(deltas: Sequence[CallDelta]) -> list[OutputToolCall]:
    """Returns the calls in order; each begins with the delta that names it."""
    calls: list[OutputToolCall] = []
    for delta in deltas:
        if delta.call_id is not None:
            function = OutputFunction(name=delta.name or "", arguments="")
            calls.append(OutputToolCall(id=delta.call_id, type="function", function=function))
        calls[-1].function.arguments += delta.arguments
    return calls


def _logprobs(tokens: Sequence[ScoredToken]) -> ChoiceLogprobs:
    return ChoiceLogprobs.model_construct(content=[_token_logprob(token) for token in tokens], refusal=None)


def _token_logprob(token: ScoredToken) -> TokenLogprob:
    return TokenLogprob(
        token=token.token,
        logprob=finite(token.logprob),
        bytes=_bytes(token.piece),
        top_logprobs=[
            TopLogprob(token=each.token, logprob=finite(each.logprob), bytes=_bytes(each.piece))
            for each in token.top
        ],
    )


def _bytes(piece: bytes | None) -> list[int] | None:
    return None if piece is None else [*piece]
