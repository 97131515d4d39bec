"""The fields in the body of ``POST /v1/responses``."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .absent import Absent
from .chat_fields import MAX_MESSAGES, MAX_TOP_LOGPROBS
from .generation_fields import SamplingFields
from .messages import MAX_PARTS, InputAudio
from .responses_format import TextConfig
from .responses_tools import FunctionTool, ToolChoice
from .tools import MAX_TOOLS
from .unions import by_type, text_or
from .wire import Integer, WireModel

MAX_METADATA = 16
LOGPROBS = "message.output_text.logprobs"


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


# It is sent back, three times in a stream: no longer than OpenAI's.
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
]


class Reasoning(WireModel):
    """How much to think, which Gemma 3n does not: ``none`` is all there is."""

    effort: Annotated[Any, Absent("none")] = None
    generate_summary: Annotated[Any, Absent()] = None
    summary: Annotated[Any, Absent()] = None


class ResponsesStreamOptions(WireModel):
    """``include_obfuscation`` is accepted without effect: nothing is padded."""

    include_obfuscation: bool | None = None


class ResponsesFields(SamplingFields):
    """Every field by name and type."""

    input: Input
    instructions: str | None = None
    include: Annotated[list[str], Field(max_length=20)] | None = None
    max_output_tokens: Annotated[Integer, Field(ge=1)] | None = None
    metadata: Metadata | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    text: TextConfig | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    user: str | None = None

    background: Annotated[Any, Absent(False)] = None
    context_management: Annotated[Any, Absent([])] = None
    conversation: Annotated[Any, Absent()] = None
    max_tool_calls: Annotated[Any, Absent()] = None
    moderation: Annotated[Any, Absent()] = None
    previous_response_id: Annotated[Any, Absent()] = None
    prompt: Annotated[Any, Absent()] = None
    truncation: Annotated[Any, Absent("disabled")] = None

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
        return LOGPROBS in (self.include or ())
