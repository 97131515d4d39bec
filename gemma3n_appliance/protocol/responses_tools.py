"""The functions of ``POST /v1/responses``, which has them flatter than chats."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from .tools import FunctionName
from .wire import WireModel


class FunctionTool(WireModel):
    """A function that can be called; of OpenAI's kinds of tools there are no others."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(WireModel):
    """The one function to call."""

    type: Literal["function"]
    name: FunctionName


def _choice_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<mode>"
    return "<named>" if isinstance(value, dict) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")] | Annotated[NamedTool, Tag("<named>")],
    Discriminator(
        _choice_form,
        custom_error_type="tool_choice",
        custom_error_message="Input should be none, auto, required, or an object that names a function",
    ),
]
