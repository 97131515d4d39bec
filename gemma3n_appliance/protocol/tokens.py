"""What ``POST /tokenize`` and ``POST /detokenize`` take and answer, as vLLM has them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ..errors import InvalidRequestError
from .chat_fields import MAX_MESSAGES
from .chat_request import ChatCompletionRequest
from .messages import Message
from .tools import MAX_TOOLS, Tool, ToolChoice
from .wire import WireModel

MAX_TOKENS = 1_000_000


class TokenizeRequest(WireModel):
    """A text or a conversation, which ends where the answer would begin.

    ``add_special_tokens`` is about a text: whether what begins a prompt goes before it.
    """

    model: Annotated[str, Field(min_length=1)] | None = None
    prompt: str | None = None
    messages: (
        Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raises InvalidRequestError unless there is a text, or a conversation that a chat would take."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("Send either a 'prompt' or 'messages'.", param="prompt")
        if self.messages is not None:
            self.chat.check()

    @property
    def chat(self) -> ChatCompletionRequest:
        """The conversation as a request for an answer."""
        return ChatCompletionRequest(
            messages=self.messages or [],
            model=self.model or "gemma3n",
            tools=self.tools,
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
        )


class Tokenized(BaseModel):
    """The tokens, soft tokens of pictures and clips among them, and how many the context holds."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(WireModel):
    """Token ids."""

    model: Annotated[str, Field(min_length=1)] | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_TOKENS, fail_fast=True)]


class Detokenized(BaseModel):
    """The text that they stand for; control tokens by their names."""

    prompt: str
