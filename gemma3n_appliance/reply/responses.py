"""Responses: events in OpenAI's order, https://platform.openai.com/docs/api-reference/responses-streaming."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..engine.events import CallDelta, Event, Finished, FinishReason, ScoredToken, Started, TextDelta
from ..protocol.responses_reply import (
    IncompleteDetails,
    InputTokensDetails,
    LikelyToken,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    Response,
    ResponseEvent,
    ResponseUsage,
    Status,
)
from .told import Events, Tally, finite, gather


@dataclass
class ResponsesReply:
    """A response as it grows; ``response`` is what it is before anything is said."""

    response: Response
    num_prompts: ClassVar[int] = 1
    num_choices: ClassVar[int] = 1
    _num_events: int = 0
    _done: list[OutputItem] = field(default_factory=list)
    _open: "_Message | _Call | None" = None

    def tell(self, event: Event, tally: Tally) -> Iterator[ResponseEvent]:
        """See `ChunkedReply`."""
        match event:
            case Started():
                yield self._event("response.created", response=self.response)
                yield self._event("response.in_progress", response=self.response)
            case TextDelta():
                if self._open is None:
                    yield from self._begin(_Message())
                yield from self._add(event.text, _logprobs(event.logprobs))
            case CallDelta():
                if event.call_id is not None:
                    yield from self._end("completed")
                    yield from self._begin(_Call(event.call_id, event.name or ""))
                if event.arguments:
                    yield from self._add(event.arguments)
            case Finished():
                yield from self._finish(event, tally)

    def tell_end(self, _tally: Tally) -> Iterator[ResponseEvent]:
        """See `ChunkedReply`: the last event has told it."""
        yield from ()

    async def complete(self, events: Events) -> Response:
        """Returns the whole response. Raises EngineError where the events end before their end."""
        tally, told = await gather(events, 1)
        last = [chunk for event in told[0] for chunk in self.tell(event, tally)][-1]
        assert last.response is not None
        return last.response

    def _finish(self, event: Finished, tally: Tally) -> Iterator[ResponseEvent]:
        is_cut = event.reason is FinishReason.LENGTH
        status: Status = "incomplete" if is_cut else "completed"
        if not self._done and self._open is None:
            yield from self._begin(_Message())
        yield from self._end(status)
        changes: dict[str, Any] = {"status": status, "output": self._done, "usage": _usage(tally)}
        if is_cut:
            changes["incomplete_details"] = IncompleteDetails(reason="max_output_tokens")
        yield self._event(f"response.{status}", response=self.response.model_copy(update=changes))

    def _begin(self, part: "_Message | _Call") -> Iterator[ResponseEvent]:
        self._open = part
        yield self._event("response.output_item.added", item=part.item("in_progress"))
        if isinstance(part, _Message):
            yield self._event("response.content_part.added", content_index=0, part=OutputText(text=""))

    def _add(self, text: str, logprobs: list[OutputLogprob] | None = None) -> Iterator[ResponseEvent]:
        if isinstance(self._open, _Message):
            self._open.text += text
            self._open.logprobs += logprobs or []
            yield self._event(
                "response.output_text.delta", content_index=0, delta=text, logprobs=logprobs or []
            )
        elif isinstance(self._open, _Call):
            self._open.arguments += text
            yield self._event("response.function_call_arguments.delta", delta=text)

    def _end(self, status: Status) -> Iterator[ResponseEvent]:
        """Closes what is open."""
        match self._open:
            case None:
                return
            case _Message() as message:
                whole = message.whole
                yield self._event(
                    "response.output_text.done", content_index=0, text=whole.text, logprobs=whole.logprobs
                )
                yield self._event("response.content_part.done", content_index=0, part=whole)
            case _Call() as call:
                yield self._event(
                    "response.function_call_arguments.done", name=call.name, arguments=call.arguments
                )
        item = self._open.item(status)
        yield self._event("response.output_item.done", item=item)
        self._done.append(item)
        self._open = None

    def _event(self, kind: str, **fields: Any) -> ResponseEvent:
        """Returns the next event; those of an item say which, either as a whole or by its id."""
        if self._open is not None:
            fields["output_index"] = len(self._done)
            if "item" not in fields:
                fields["item_id"] = self._open.id
        self._num_events += 1
        return ResponseEvent(type=kind, sequence_number=self._num_events - 1, **fields)


@dataclass
class _Message:
    """A message that grows."""

    text: str = ""
    logprobs: list[OutputLogprob] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    @property
    def whole(self) -> OutputText:
        return OutputText(text=self.text, logprobs=self.logprobs)

    def item(self, status: Status) -> OutputMessage:
        content = [] if status == "in_progress" else [self.whole]
        return OutputMessage(id=self.id, status=status, content=content)


@dataclass
class _Call:
    """A call that grows."""

    call_id: str
    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"fc_{uuid.uuid4().hex}")

    def item(self, status: Status) -> OutputCall:
        return OutputCall(
            id=self.id, status=status, call_id=self.call_id, name=self.name, arguments=self.arguments
        )


def _usage(tally: Tally) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=tally.num_prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=tally.num_cached_tokens),
        output_tokens=tally.num_completion_tokens,
        output_tokens_details=OutputTokensDetails(),
        total_tokens=tally.num_prompt_tokens + tally.num_completion_tokens,
    )


def _logprobs(tokens: Sequence[ScoredToken]) -> list[OutputLogprob]:
    return [
        OutputLogprob(**_likely(token), top_logprobs=[LikelyToken(**_likely(each)) for each in token.top])
        for token in tokens
    ]


def _likely(token: ScoredToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": [*(token.piece or b"")]}
