"""``POST /v1/chat/completions``."""

from collections.abc import Mapping

from ..engine.runner import LoadedModel
from ..prompt.prompts import Prompts
from ..protocol.chat_request import ChatCompletionRequest
from ..reply.chat import ChatReply
from .generation import Asked


def ask(
    prompts: Prompts,
    body: ChatCompletionRequest,
    model: LoadedModel,
    request_id: str,
    fetched: Mapping[str, bytes],
) -> Asked:
    """Turns a conversation into work for the engine."""
    prompt = prompts.for_chat(body, model, request_id, fetched)
    reply = ChatReply(
        model=body.model,
        num_image_tokens=prompt.num_image_tokens,
        num_audio_tokens=prompt.num_audio_tokens,
        num_choices=body.num_choices,
        has_logprobs=bool(body.logprobs),
        may_call=bool(body.functions_to_call),
        has_usage=body.includes_usage,
        has_usage_so_far=body.includes_usage_so_far,
    )
    return Asked((prompt.request,), reply)
