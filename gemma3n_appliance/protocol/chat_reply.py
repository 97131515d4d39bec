"""What ``POST /v1/chat/completions`` answers."""

from typing import Literal

from pydantic import BaseModel
from typing_extensions import TypedDict

from .reply import Reply, Usage

FinishReason = Literal["stop", "length", "tool_calls"]


class OutputFunction(BaseModel):
    """What to call; ``arguments`` is JSON."""

    name: str
    arguments: str


class OutputToolCall(BaseModel):
    """A call that the client is to make."""

    id: str
    type: Literal["function"]
    function: OutputFunction


class AssistantMessage(BaseModel):
    """The whole answer; ``content`` is null where it calls tools, and ``tool_calls`` is there only then."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[OutputToolCall] | None = None


# There can be 21 to a token of an answer: models would take seconds to build.
class TopLogprob(TypedDict):
    """A likely token; ``token`` has U+FFFD for what is only part of a character.

    ``bytes`` is null for control tokens, which stand for no text.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest at its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The tokens of an answer, or of a chunk of it."""

    content: list[TokenLogprob]
    refusal: None


class Choice(BaseModel):
    """One answer and why it ended."""

    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Reply):
    """The plain reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class FunctionCallDelta(BaseModel):
    """More of a call: its name at first, then its arguments piece by piece."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """What a chunk adds to a call; ``id`` and ``type`` come with the first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class Delta(BaseModel):
    """What a chunk adds; a field it does not add to is absent.

    ``content`` is null at the beginning of an answer that may turn out to be calls.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None = ""
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(BaseModel):
    """One answer's share of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Reply):
    """One frame of a streamed reply.

    ``usage`` is set if the client asked for it: null but for the last, or what it has cost so far.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
