"""What form a response has: ``text`` in ``POST /v1/responses``, which has schemas flatter than chats."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .structured import JsonObjectFormat, TextFormat
from .wire import WireModel


class FlatJsonSchemaFormat(WireModel):
    """JSON by a schema. ``strict`` makes no difference: an answer always keeps to the schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


def _form_type(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>"


class TextConfig(WireModel):
    """The form; ``verbosity`` is the model's own."""

    format: (
        Annotated[
            Annotated[TextFormat, Tag("<text>")]
            | Annotated[JsonObjectFormat, Tag("<json_object>")]
            | Annotated[FlatJsonSchemaFormat, Tag("<json_schema>")],
            Discriminator(
                _form_type,
                custom_error_type="format",
                custom_error_message="Input should be an object of type text, json_object or json_schema",
            ),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None
