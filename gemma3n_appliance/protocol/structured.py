"""What forms an answer can be held to: OpenAI's ``response_format``, and vLLM's ``structured_outputs``."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .absent import Absent
from .unions import by_type
from .wire import WireModel

MAX_CHOICES_TO_PICK = 1_000


class TextFormat(WireModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(WireModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(WireModel):
    """A schema by name. ``strict`` makes no difference: an answer always keeps to the schema.

    ``description`` is accepted without effect: what a schema is for, the messages have to say.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(WireModel):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    Discriminator(
        by_type,
        custom_error_type="response_format",
        custom_error_message="Input should be an object whose type is text, json_object or json_schema",
    ),
]


class StructuredOutputs(WireModel):
    """One of several forms; ``json`` is a schema, ``grammar`` is written in Lark or GBNF."""

    json_schema: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(min_length=1, max_length=MAX_CHOICES_TO_PICK, fail_fast=True),
    ] = None
    grammar: Annotated[str, Field(min_length=1)] | None = None
    json_object: bool | None = None
    disable_any_whitespace: Annotated[Any, Absent(False)] = None
    disable_additional_properties: Annotated[Any, Absent(False)] = None
    whitespace_pattern: Annotated[Any, Absent("")] = None
    structural_tag: Annotated[Any, Absent("")] = None

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the forms that are asked for."""
        forms = {
            "json": self.json_schema,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "json_object": self.json_object or None,
        }
        return tuple(name for name, value in forms.items() if value is not None)
