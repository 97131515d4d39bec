"""Chat replies. A plain reply is a fold over the very events that a stream would send."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from .. import __version__
from ..engine.events import Event, Finished, Started, TextDelta
from ..errors import EngineError
from ..protocol.chat_reply import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    PromptTokensDetails,
    Usage,
)

Events = AsyncGenerator[Event, None]

SYSTEM_FINGERPRINT = f"gemma3n-appliance-{__version__}"


@dataclass(frozen=True)
class Reply:
    """What all of a reply's chunks have in common; ``model`` echoes the request's."""

    model: str
    num_image_tokens: int = 0
    num_audio_tokens: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def usage(self, started: Started, finished: Finished) -> Usage:
        """Returns what the request cost."""
        return Usage(
            prompt_tokens=started.num_prompt_tokens,
            completion_tokens=finished.num_completion_tokens,
            total_tokens=started.num_prompt_tokens + finished.num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=started.num_cached_tokens,
                audio_tokens=self.num_audio_tokens,
                image_tokens=self.num_image_tokens,
            ),
        )

    def chunk(self, delta: Delta, finish_reason: FinishReason | None = None) -> ChatCompletionChunk:
        """Returns a chunk that says nothing of usage."""
        choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish_reason)
        return self._chunk([choice])

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        """Returns the chunk that ends a stream whose client asked for usage."""
        return self._chunk([]).model_copy(update={"usage": usage})

    def completion(self, text: str, finish_reason: FinishReason, usage: Usage) -> ChatCompletion:
        """Returns the plain reply."""
        message = AssistantMessage(role="assistant", content=text, refusal=None)
        choice = Choice(index=0, message=message, logprobs=None, finish_reason=finish_reason)
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=[choice],
            usage=usage,
            system_fingerprint=SYSTEM_FINGERPRINT,
        )

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=SYSTEM_FINGERPRINT,
        )


async def chunks(
    events: Events, reply: Reply, *, include_usage: bool
) -> AsyncGenerator[ChatCompletionChunk, None]:
    """Yields the role, the text as it comes, the finish reason, and the usage if asked for.

    With ``include_usage`` every other chunk carries ``usage: null``, as OpenAI's do.
    """
    started: Started | None = None
    async with aclosing(events):
        async for event in events:
            chunk = _chunk_of(event, reply)
            yield chunk.model_copy(update={"usage": None}) if include_usage else chunk
            if isinstance(event, Started):
                started = event
            elif isinstance(event, Finished) and started is not None and include_usage:
                yield reply.usage_chunk(reply.usage(started, event))


def _chunk_of(event: Event, reply: Reply) -> ChatCompletionChunk:
    match event:
        case Started():
            return reply.chunk(Delta(role="assistant", content=""))
        case TextDelta(text=text):
            return reply.chunk(Delta(content=text))
        case Finished(reason=reason):
            return reply.chunk(Delta(), reason.value)


async def complete(events: Events, reply: Reply) -> ChatCompletion:
    """Returns the whole reply.

    Raises:
        EngineError: the events end before they have told the end.
    """
    text: list[str] = []
    reason: FinishReason | None = None
    usage: Usage | None = None
    async for chunk in chunks(events, reply, include_usage=True):
        for choice in chunk.choices:
            text.append(choice.delta.content)
            reason = choice.finish_reason
        usage = chunk.usage
    if reason is None or usage is None:
        raise EngineError("The engine stopped before the answer was complete. Send the request again.")
    return reply.completion("".join(text), reason, usage)
