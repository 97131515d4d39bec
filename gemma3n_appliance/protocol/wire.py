"""Reads a request body into a wire model, and says in OpenAI's words where it is wrong."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, TypeVar

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from ..errors import InvalidRequestError

log = structlog.get_logger(__name__)

# An empty list costs 2 bytes of the body and 60 or more of memory. Ten times what a full context could say.
_MOST_CONTAINERS = 250_000
# What a client wrote is quoted in errors and in the log, but not by the megabyte.
_LONGEST_QUOTE = 200
_MOST_UNKNOWN_FIELDS = 20


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# 5.0 is an integer to JSON Schema, and to languages whose numbers are all of one kind.
Integer = Annotated[int, BeforeValidator(_whole)]


class WireModel(BaseModel):
    """Strict: "1" is not a number, true is not an integer, and NaN is nothing."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=()
    )

    def check(self) -> None:
        """Raises InvalidRequestError for what single fields cannot show; `parse` calls it."""


class TextRequest(WireModel):
    """What every request for generated text has."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None

    @property
    def has_media(self) -> bool:
        """Whether there are pictures or clips in it."""
        return False

    @property
    def pictures_elsewhere(self) -> dict[str, str]:
        """The URLs of pictures that would have to be fetched, with their paths in the request."""
        return {}


WireModelT = TypeVar("WireModelT", bound=WireModel)


def parse(
    raw: bytes,
    model: type[WireModelT],
    check_sent: Callable[[Mapping[str, Any], WireModelT], None] | None = None,
) -> WireModelT:
    """Returns the body as a ``model`` that has passed its ``check``.

    ``check_sent`` may have something against what was sent that the model does not show: it comes last.

    Raises:
        InvalidRequestError: not JSON, or not what ``model`` takes; ``param`` is the path to the first fault.
    """
    document = _document(raw)
    try:
        parsed = model.model_validate(document)
    except ValidationError as error:
        raise refusal(error) from None
    parsed.check()
    if check_sent:
        check_sent(document, parsed)
    if unknown := list(islice(_unknown_fields(document, parsed, ""), _MOST_UNKNOWN_FIELDS)):
        log.debug("unknown_fields_ignored", fields=unknown)
    return parsed


def refusal(error: ValidationError) -> InvalidRequestError:
    """Returns the first of the faults that were found, in OpenAI's words."""
    return _refusal(error.errors(include_url=False, include_context=False, include_input=False)[0])


def _document(raw: bytes) -> dict[str, Any]:
    if raw.count(b"{") + raw.count(b"[") > _MOST_CONTAINERS:
        raise InvalidRequestError(f"The body has more than {_MOST_CONTAINERS} brackets and braces.")
    try:
        # NaN passes here and is refused by the field it is in, which can name itself.
        document = from_json(raw)
    except ValueError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return document


def _unknown_fields(sent: Any, parsed: Any, path: str) -> Iterator[str]:
    """Yields the paths of fields that ``parsed``, or a model somewhere in it, does not declare."""
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], WireModel):
        for index, (item, model) in enumerate(zip(sent, parsed, strict=True)):
            yield from _unknown_fields(item, model, f"{path}[{index}]")
    elif isinstance(parsed, WireModel):
        known = {field.alias or name: name for name, field in type(parsed).model_fields.items()}
        for name, value in sent.items():
            place = f"{path}.{name}"[:_LONGEST_QUOTE].removeprefix(".")
            if name in known:
                yield from _unknown_fields(value, getattr(parsed, known[name]), place)
            else:
                yield place


def _refusal(fault: ErrorDetails) -> InvalidRequestError:
    param = _path(fault["loc"])
    if fault["type"] == "missing":
        return InvalidRequestError(f"Missing required parameter: '{param}'.", param=param)
    message = fault["msg"][:1].lower() + fault["msg"][1:_LONGEST_QUOTE]
    return InvalidRequestError(f"Invalid value for '{param}': {message}.", param=param)


def _path(location: tuple[int | str, ...]) -> str:
    """Joins ``("messages", 2, "content", "<parts>", 0)`` to ``messages[2].content[0]``: tags are our own."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "[key]" and not step.startswith("<"):
            path += f".{step}" if path else step
    return path[:_LONGEST_QUOTE]
