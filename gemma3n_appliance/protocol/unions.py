"""Which branch of a union a value is meant for.

Branches have tags in angle brackets; `wire` leaves those out of error paths.
"""

from collections.abc import Callable
from types import UnionType
from typing import Any


def by_type(value: Any) -> str:
    """Returns the tag that an object's ``type`` names."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>"


def text_or(tag: str, kind: type | UnionType) -> Callable[[Any], str | None]:
    """Returns what tells a string, tagged ``<text>``, from a value of a ``kind``, and both from all else."""

    def choose(value: Any) -> str | None:
        if isinstance(value, str):
            return "<text>"
        return tag if isinstance(value, kind) else None

    return choose
