"""The messages of a chat request."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .absent import Absent
from .tools import MAX_TOOLS, ToolCall
from .unions import by_type, text_or
from .wire import WireModel

MAX_PARTS = 1_000


class TextPart(WireModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(WireModel):
    """Where a picture is; ``detail`` is accepted without effect: every picture takes the same tokens."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(WireModel):
    """A picture, as an object with a URL or as the bare URL that some clients send."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[ImageUrl, Tag("<object>")],
        Discriminator(
            text_or("<object>", dict),
            custom_error_type="image_url",
            custom_error_message='Input should be an object such as {"url": "data:image/png;base64,..."}',
        ),
    ]

    @property
    def url(self) -> str:
        """The picture's URL, whichever form it came in."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url

    @property
    def is_elsewhere(self) -> bool:
        """Whether it would have to be fetched."""
        return self.url.lstrip()[:8].lower().startswith(("http:", "https:"))


class InputAudio(WireModel):
    """A clip: base64 and what it holds."""

    data: str
    format: Literal["wav", "mp3", "flac"]


class AudioPart(WireModel):
    """A clip in a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class RefusalPart(WireModel):
    """What an assistant declined with; read back as its text."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[AudioPart, Tag("<input_audio>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(
        by_type,
        custom_error_type="part_type",
        custom_error_message="Input should be an object whose type is text, image_url or input_audio",
    ),
]

Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True), Tag("<parts>")],
    Discriminator(
        text_or("<parts>", list),
        custom_error_type="content",
        custom_error_message="Input should be a string or a list of parts",
    ),
]


class Message(WireModel):
    """One message; ``name`` says which tool said it where no call does, and has no effect elsewhere."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    audio: Annotated[Any, Absent()] = None
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall] | None, Field(max_length=MAX_TOOLS, fail_fast=True)] = None
    tool_call_id: str | None = None
    function_call: Annotated[Any, Absent()] = None
