"""What ``POST /v1/responses`` answers, whole, and event by event in OpenAI's order."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel, SerializeAsAny
from typing_extensions import TypedDict

from .error import ErrorDetail
from .reply import Reply

Status = Literal["in_progress", "completed", "incomplete"]


class _Whole(Reply):
    """A reply that sends what is left at its default, too."""

    def to_json(self) -> bytes:
        """The object as it goes over the wire."""
        return self.model_dump_json().encode()


class LikelyToken(TypedDict):
    """A token and how likely it was; control tokens have no bytes."""

    token: str
    logprob: float
    bytes: list[int]


class OutputLogprob(LikelyToken):
    """A token of the text, and the likeliest at its place."""

    top_logprobs: list[LikelyToken]


class OutputText(BaseModel):
    """A text."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[OutputLogprob] = []


class OutputMessage(BaseModel):
    """A message of the model's."""

    id: str
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(BaseModel):
    """A call that the client is to make; ``arguments`` is JSON."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    arguments: str


# Or each would be made twice: first of Python's own objects, then of these JSON.
OutputItem = SerializeAsAny[Annotated[OutputMessage | OutputCall, Field(discriminator="type")]]


class InputTokensDetails(BaseModel):
    """Of the tokens read: those that cost no computing, and those of pictures and sounds."""

    cached_tokens: int
    cache_write_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0


class OutputTokensDetails(BaseModel):
    """Of the tokens generated: those that nobody sees."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """What a response cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why a response ended before its end."""

    reason: Literal["max_output_tokens"]


class NoReasoning(BaseModel):
    """How much was thought about it: Gemma 3n does not."""

    effort: None = None
    summary: None = None


class Response(_Whole):
    """The whole response, with what it was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool = False
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: NoReasoning = Field(default_factory=lambda: NoReasoning())
    store: bool = False
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class _Event(_Whole):
    """One event of a stream."""

    type: str
    sequence_number: int

    @property
    def event_name(self) -> str:
        """The event's name in the stream."""
        return self.type


class ResponseTold(_Event):
    """The response as a whole, at its beginning and at its end."""

    type: Literal["response.created", "response.in_progress", "response.completed", "response.incomplete"]
    response: Response


class ItemTold(_Event):
    """An item of the output, at its beginning and at its end."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _OfItem(_Event):
    item_id: str
    output_index: int


class PartTold(_OfItem):
    """A text, at its beginning and at its end."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int = 0
    part: OutputText


class TextTold(_OfItem):
    """More of a text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    content_index: int = 0
    delta: str
    logprobs: list[OutputLogprob]


class TextDone(_OfItem):
    """The text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    content_index: int = 0
    text: str
    logprobs: list[OutputLogprob]


class ArgumentsTold(_OfItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(_OfItem):
    """A call's arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


class ErrorTold(_Event):
    """What went wrong, as events have it, and as SDKs look for it."""

    type: Literal["error"] = "error"
    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


class ResponseEvent(
    RootModel[
        Annotated[
            ResponseTold
            | ItemTold
            | PartTold
            | TextTold
            | TextDone
            | ArgumentsTold
            | ArgumentsDone
            | ErrorTold,
            Field(discriminator="type"),
        ]
    ]
):
    """Any event of a stream."""
