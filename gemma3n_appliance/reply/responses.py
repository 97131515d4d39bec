"""Responses: events in OpenAI's order, https://platform.openai.com/docs/api-reference/responses-streaming."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, cast

from ..engine.events import CallDelta, Event, Finished, FinishReason, ScoredToken, Started, TextDelta
from ..protocol.reply import Reply
from ..protocol.responses_reply import (
    ArgumentsDone,
    ArgumentsTold,
    IncompleteDetails,
    InputTokensDetails,
    ItemTold,
    LikelyToken,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    PartTold,
    Response,
    ResponseTold,
    ResponseUsage,
    Status,
    TextDone,
    TextTold,
)
from .told import Tally, Told, finite

EventT = TypeVar("EventT", bound=Reply)


@dataclass
class ResponsesReply:
    """A response as it grows; ``response`` is what it is before anything is said."""

    response: Response
    num_image_tokens: int = 0
    num_audio_tokens: int = 0
    num_prompts: ClassVar[int] = 1
    num_choices: ClassVar[int] = 1
    _num_events: int = 0
    _done: list[OutputItem] = field(default_factory=list)
    _open: "_Message | _Call | None" = None

    def tell(self, event: Event, tally: Tally) -> Iterator[Reply]:
        """See `ChunkedReply`."""
        match event:
            case Started():
                yield self._event(ResponseTold, type="response.created", response=self.response)
                yield self._event(ResponseTold, type="response.in_progress", response=self.response)
            case TextDelta():
                yield from self._add_text(event.text, _logprobs(event.logprobs))
            case CallDelta():
                yield from self._add_call(event)
            case Finished():
                yield from self._finish(event, tally)

    def tell_end(self, _tally: Tally) -> Iterator[Reply]:
        """See `ChunkedReply`: the last event has told it."""
        yield from ()

    def whole(self, told: Told) -> Response:
        """See `ChunkedReply`: the last event holds it."""
        last = [event for each in told.events[0] for event in self.tell(each, told.tally)][-1]
        assert isinstance(last, ResponseTold)
        return last.response

    def _finish(self, event: Finished, tally: Tally) -> Iterator[Reply]:
        is_cut = event.reason is FinishReason.LENGTH
        status: Literal["incomplete", "completed"] = "incomplete" if is_cut else "completed"
        if not self._done and self._open is None:
            yield from self._begin(_Message())
        yield from self._end(status)
        changes: dict[str, Any] = {"status": status, "output": self._done, "usage": self._usage(tally)}
        if is_cut:
            changes["incomplete_details"] = IncompleteDetails(reason="max_output_tokens")
        response = self.response.model_copy(update=changes)
        yield self._event(ResponseTold, type=f"response.{status}", response=response)

    def _usage(self, tally: Tally) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=tally.num_prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=tally.num_cached_tokens,
                audio_tokens=self.num_audio_tokens,
                image_tokens=self.num_image_tokens,
            ),
            output_tokens=tally.num_completion_tokens,
            output_tokens_details=OutputTokensDetails(),
            total_tokens=tally.num_prompt_tokens + tally.num_completion_tokens,
        )

    def _begin(self, part: "_Message | _Call") -> Iterator[Reply]:
        self._open = part
        yield self._item("added", "in_progress")
        if isinstance(part, _Message):
            yield self._of_item(PartTold, type="response.content_part.added", part=OutputText(text=""))

    def _add_text(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[Reply]:
        if self._open is None:
            yield from self._begin(_Message())
        if isinstance(self._open, _Message):
            self._open.text += text
            self._open.logprobs += logprobs
            yield self._of_item(TextTold, delta=text, logprobs=logprobs)

    def _add_call(self, event: CallDelta) -> Iterator[Reply]:
        if event.call_id is not None:
            yield from self._end("completed")
            yield from self._begin(_Call(event.call_id, event.name or ""))
        if isinstance(self._open, _Call) and event.arguments:
            self._open.arguments += event.arguments
            yield self._of_item(ArgumentsTold, delta=event.arguments)

    def _end(self, status: Status) -> Iterator[Reply]:
        """Closes what is open."""
        match self._open:
            case None:
                return
            case _Message() as message:
                whole = message.whole
                yield self._of_item(TextDone, text=whole.text, logprobs=whole.logprobs)
                yield self._of_item(PartTold, type="response.content_part.done", part=whole)
            case _Call() as call:
                yield self._of_item(ArgumentsDone, name=call.name, arguments=call.arguments)
        done = self._item("done", status)
        yield done
        self._done.append(done.item)
        self._open = None

    def _item(self, what: Literal["added", "done"], status: Status) -> ItemTold:
        assert self._open is not None
        return self._event(
            ItemTold,
            type=f"response.output_item.{what}",
            output_index=len(self._done),
            item=self._open.item(status),
        )

    def _of_item(self, kind: type[EventT], **fields: Any) -> EventT:
        """Returns the next event, of the item that is open."""
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=len(self._done), **fields)

    def _event(self, kind: type[EventT], **fields: Any) -> EventT:
        """Returns the next event; its tokens' probabilities can be megabytes, and are not looked through."""
        self._num_events += 1
        return cast("EventT", kind.model_construct(sequence_number=self._num_events - 1, **fields))


@dataclass
class _Message:
    """A message that grows."""

    text: str = ""
    logprobs: list[OutputLogprob] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    @property
    def whole(self) -> OutputText:
        return OutputText.model_construct(text=self.text, logprobs=self.logprobs)

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


def _logprobs(tokens: Sequence[ScoredToken]) -> list[OutputLogprob]:
    return [
        OutputLogprob(**_likely(token), top_logprobs=[_likely(each) for each in token.top])
        for token in tokens
    ]


def _likely(token: ScoredToken) -> LikelyToken:
    return LikelyToken(token=token.token, logprob=finite(token.logprob), bytes=[*(token.piece or b"")])
