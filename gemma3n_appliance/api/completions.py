"""``POST /v1/completions``."""

from collections.abc import Mapping

from ..engine.runner import LoadedModel
from ..prompt.prompts import Prompts
from ..protocol.completion_request import CompletionRequest
from ..reply.completion import CompletionReply
from .generation import Asked


def ask(
    prompts: Prompts,
    body: CompletionRequest,
    model: LoadedModel,
    request_id: str,
    _fetched: Mapping[str, bytes],
) -> Asked:
    """Turns prompts without a chat's form into work for the engine."""
    requests = prompts.for_completion(body, model, request_id)
    reply = CompletionReply(
        model=body.model,
        num_prompts=len(requests),
        num_choices=body.num_choices,
        echoes=prompts.echoes(body, model),
        has_logprobs=body.logprobs is not None,
        has_usage=body.includes_usage,
        has_usage_so_far=body.includes_usage_so_far,
    )
    return Asked(tuple(requests), reply)
