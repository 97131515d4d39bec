"""What form a response has: ``text`` in ``POST /v1/responses``, which has schemas flatter than chats."""

from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from .structured import JsonObjectFormat, JsonSchema, TextFormat
from .unions import by_type
from .wire import WireModel


class FlatJsonSchemaFormat(JsonSchema):
    """JSON by a schema."""

    type: Literal["json_schema"]


class TextConfig(WireModel):
    """The form; ``verbosity`` is the model's own."""

    format: (
        Annotated[
            Annotated[TextFormat, Tag("<text>")]
            | Annotated[JsonObjectFormat, Tag("<json_object>")]
            | Annotated[FlatJsonSchemaFormat, Tag("<json_schema>")],
            Discriminator(
                by_type,
                custom_error_type="format",
                custom_error_message="Input should be an object of type text, json_object or json_schema",
            ),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None
