"""The body of ``POST /v1/responses``, whose conversations the client keeps: nothing is stored here."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ..errors import InvalidRequestError
from .chat_fields import MAX_MESSAGES, MAX_TOP_LOGPROBS
from .messages import MAX_PARTS, InputAudio
from .refusals import refuse_values, unsupported
from .responses_format import TextConfig
from .responses_tools import FunctionTool, ToolChoice
from .tools import MAX_TOOLS
from .unions import by_type, text_or
from .wire import TextRequest, WireModel

# What asks for nothing: None does so for every one.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "truncation": ("disabled",),
}
_LOGPROBS = "message.output_text.logprobs"


class TextContent(WireModel):
    """A piece of text, of either side."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalContent(WireModel):
    """What the model declined with; read back as its text."""

    type: Literal["refusal"]
    refusal: str


class ImageContent(WireModel):
    """A picture; ``detail`` is accepted without effect."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class AudioContent(WireModel):
    """A clip."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _content_type(value: Any) -> str:
    tag = by_type(value)
    return "<text>" if tag in ("<input_text>", "<output_text>") else tag


Content = Annotated[
    Annotated[TextContent, Tag("<text>")]
    | Annotated[RefusalContent, Tag("<refusal>")]
    | Annotated[ImageContent, Tag("<input_image>")]
    | Annotated[AudioContent, Tag("<input_audio>")],
    Discriminator(
        _content_type,
        custom_error_type="content_type",
        custom_error_message="Input should be an object whose type is input_text, input_image or input_audio",
    ),
]


ContentOrText = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Content], Field(max_length=MAX_PARTS, fail_fast=True), Tag("<list>")],
    Discriminator(
        text_or("<list>", list),
        custom_error_type="content",
        custom_error_message="Input should be a string or a list of parts",
    ),
]


class MessageItem(WireModel):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: ContentOrText


class CallItem(WireModel):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    arguments: str


class CallOutputItem(WireModel):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1)]
    output: ContentOrText


class ReasoningItem(WireModel):
    """What another model thought; there is nobody here to read it."""

    type: Literal["reasoning"]


def _item_type(value: Any) -> str:
    """A message needs no type: having a role tells it."""
    tag = by_type(value)
    return "<message>" if tag == "<None>" and isinstance(value, dict) and "role" in value else tag


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _item_type,
        custom_error_type="item_type",
        custom_error_message="Input should be a message, or an object whose type is function_call, "
        "function_call_output or reasoning",
    ),
]

Input = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("<list>")],
    Discriminator(
        text_or("<list>", list),
        custom_error_type="input",
        custom_error_message="Input should be a string or a list of items",
    ),
]


class Reasoning(WireModel):
    """How much to think, which Gemma 3n does not: ``none`` is all there is."""

    effort: str | None = None


class ResponsesStreamOptions(WireModel):
    """``include_obfuscation`` is accepted without effect: nothing is padded."""

    include_obfuscation: bool | None = None


class ResponsesRequest(TextRequest):
    """A conversation to answer, and how."""

    input: Input
    instructions: str | None = None
    include: Annotated[list[str], Field(max_length=20)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: TextConfig | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None

    # Not there: declared so that they can be named.
    background: Any = None
    context_management: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    truncation: Any = None

    def check(self) -> None:
        """Raises InvalidRequestError for what is not there, and for fields that need others."""
        refuse_values(self, _NEUTRAL)
        if self.reasoning and self.reasoning.effort not in (None, "none"):
            raise unsupported("reasoning.effort")
        if self.top_logprobs and not self.has_logprobs:
            raise InvalidRequestError(
                f"'top_logprobs' is only allowed where 'include' has {_LOGPROBS}.", param="top_logprobs"
            )

    @property
    def has_media(self) -> bool:
        """Whether there are pictures or clips in it."""
        if isinstance(self.input, str):
            return False
        contents = (
            item.output if isinstance(item, CallOutputItem) else item.content
            for item in self.input
            if isinstance(item, MessageItem | CallOutputItem)
        )
        lists = (content for content in contents if isinstance(content, list))
        return any(isinstance(part, ImageContent | AudioContent) for content in lists for part in content)

    @property
    def has_logprobs(self) -> bool:
        """Whether the answer's tokens are to be told with their probabilities."""
        return _LOGPROBS in (self.include or ())
