"""Refuses what another route would do: who sends it here should know that it does nothing."""

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedParameterError
from .absent import absence, asks_for_nothing
from .chat_request import ChatCompletionRequest
from .completion_request import CompletionRequest
from .responses_request import ResponsesRequest
from .wire import TextRequest

_ROUTES: dict[str, type[TextRequest]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/completions": CompletionRequest,
}
# Accepted without effect wherever it is known, and so where it is not.
_WITHOUT_EFFECT = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
_NOTHING: tuple[Any, ...] = (False, "", [], {})
# Defaults, which some clients send.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "reasoning": ({"effort": None}, {"effort": "none"}),
    "text": ({"format": {"type": "text"}},),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}


def refuse_of_other_routes(sent: Mapping[str, Any], request: TextRequest) -> None:
    """Raises UnsupportedParameterError for a field that only other requests for text have."""
    known = {*type(request).model_fields, *_WITHOUT_EFFECT}
    for path, kind in _ROUTES.items():
        for name, field in kind.model_fields.items():
            mark = absence(field)
            neutral = (*_NOTHING, *(mark.neutral if mark else ()), *_DEFAULTS.get(name, ()))
            if name not in known and not asks_for_nothing(sent.get(name), neutral):
                raise UnsupportedParameterError(
                    f"'{name}' is a parameter of {path}, and does nothing here: leave it out.", param=name
                )
