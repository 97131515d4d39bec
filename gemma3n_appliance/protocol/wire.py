"""Reads a request body into a wire model, and says in OpenAI's words where it is wrong."""

from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json

from ..errors import InvalidRequestError

log = structlog.get_logger(__name__)


class WireModel(BaseModel):
    """Strict: "1" is not a number, true is not an integer, and NaN is nothing."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=()
    )


WireModelT = TypeVar("WireModelT", bound=WireModel)


def parse(raw: bytes, model: type[WireModelT]) -> WireModelT:
    """Returns the body as a ``model``.

    Raises:
        InvalidRequestError: not JSON, or not what ``model`` takes; ``param`` is the path to the first fault.
    """
    document = _document(raw)
    try:
        parsed = model.model_validate(document)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False)[0]) from None
    if parsed.model_extra:
        log.debug("unknown_fields_ignored", fields=sorted(parsed.model_extra)[:20])
    return parsed


def _document(raw: bytes) -> dict[str, Any]:
    try:
        # NaN passes here and is refused by the field it is in, which can name itself.
        document = from_json(raw)
    except ValueError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return document


def _refusal(fault: ErrorDetails) -> InvalidRequestError:
    param = _path(fault["loc"])
    if fault["type"] == "missing":
        return InvalidRequestError(f"Missing required parameter: '{param}'.", param=param)
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    return InvalidRequestError(f"Invalid value for '{param}': {message}.", param=param)


def _path(location: tuple[int | str, ...]) -> str:
    """Joins ``("messages", 2, "content", "<parts>", 0)`` to ``messages[2].content[0]``: tags are our own."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            path += f".{step}" if path else step
    return path
