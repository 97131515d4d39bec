"""The functions of ``POST /v1/responses``, which has them flatter than chats."""

from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from .tools import FunctionDefinition, NamedFunction
from .unions import text_or
from .wire import WireModel


class _OfFunctions(WireModel):
    """Of OpenAI's kinds of tools there are functions only."""

    type: Literal["function"]


# Their fields come in the order of the last class to the first: what is no function is told so by its type.
class FunctionTool(FunctionDefinition, _OfFunctions):
    """A function that can be called."""


class NamedTool(NamedFunction, _OfFunctions):
    """The one function to call."""


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")] | Annotated[NamedTool, Tag("<named>")],
    Discriminator(
        text_or("<named>", dict),
        custom_error_type="tool_choice",
        custom_error_message="Input should be none, auto, required, or an object that names a function",
    ),
]
