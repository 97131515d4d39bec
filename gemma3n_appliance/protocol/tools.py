"""What a model may call: functions, which of them, and the calls in a history."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .unions import text_or
from .wire import WireModel

MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FunctionDefinition(WireModel):
    """A function that can be called. ``strict`` makes no difference: arguments always keep to the schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(WireModel):
    """A tool; of OpenAI's kinds there are functions only."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(WireModel):
    """A function by its name."""

    name: FunctionName


class NamedToolChoice(WireModel):
    """The one function to call."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")]
    | Annotated[NamedToolChoice, Tag("<named>")],
    Discriminator(
        text_or("<named>", dict | NamedToolChoice),
        custom_error_type="tool_choice",
        custom_error_message="Input should be none, auto, required, or an object that names a function",
    ),
]


class FunctionCall(WireModel):
    """What was called; ``arguments`` should be JSON."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class ToolCall(WireModel):
    """A call in an assistant's message."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: FunctionCall
