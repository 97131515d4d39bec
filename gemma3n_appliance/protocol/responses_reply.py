"""What ``POST /v1/responses`` answers, whole, and event by event in OpenAI's order."""

from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from .reply import Reply

Status = Literal["in_progress", "completed", "incomplete"]


class _Whole(Reply):
    """A reply that sends what is left at its default, too."""

    def to_json(self) -> bytes:
        """The object as it goes over the wire."""
        return self.model_dump_json().encode()


class LikelyToken(BaseModel):
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


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(BaseModel):
    """Of the tokens read: those that cost no computing."""

    cached_tokens: int
    cache_write_tokens: int = 0


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


class ResponseEvent(_Whole):
    """One event of a stream; which fields it has, its type says: the others are absent."""

    type: str
    sequence_number: int
    response: Response | None = None
    output_index: int | None = None
    content_index: int | None = None
    item_id: str | None = None
    item: OutputItem | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[OutputLogprob] | None = None

    @property
    def event_name(self) -> str:
        """The event's name in the stream."""
        return self.type

    @model_serializer(mode="wrap")
    def _present(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name in self.model_fields_set}
