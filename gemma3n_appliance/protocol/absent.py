"""Parameters that this server does not have: declared, so that they can be refused by name."""

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..errors import UnsupportedParameterError
from .wire import WireModel


class Absent:
    """Marks a field that may only have a value that asks for nothing: None, or one of ``neutral``."""

    # No two are equal: Absent(0) is not Absent(False), and typing keeps one of what is equal.

    def __init__(self, *neutral: Any) -> None:
        self.neutral = neutral

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describes the field as what it may be."""
        return {"enum": [None, *self.neutral]}


def absence(field: FieldInfo) -> Absent | None:
    """Returns how a field is marked, if it is."""
    return next((mark for mark in field.metadata if isinstance(mark, Absent)), None)


def asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Returns whether it is None or ``neutral``; true is not 1."""
    return value is None or any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral
    )


def refuse_absent(model: WireModel, path: str = "") -> None:
    """Raises UnsupportedParameterError for what is absent and asked for; ``path`` goes before its name."""
    for name, field in type(model).model_fields.items():
        mark = absence(field)
        if mark and not asks_for_nothing(getattr(model, name), mark.neutral):
            raise unsupported(f"{path}{name}")


def unsupported(param: str) -> UnsupportedParameterError:
    """Returns what says that a parameter asks for what is not there."""
    return UnsupportedParameterError(
        f"'{param}' is not supported by this server: leave it out or at its default.", param=param
    )
