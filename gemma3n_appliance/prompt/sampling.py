"""How to sample and for how long: the request's word first, then the checkpoint's, then the server's."""

from ..engine.request import Sampling
from ..errors import ContextLengthError
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.generation_fields import GenerationFields, SamplingFields


def sampling(body: SamplingFields, *, temperature: float, top_k: int, top_p: float) -> Sampling:
    """Returns the request's sampling; the arguments stand in for what it leaves open."""
    return Sampling(
        temperature=_given(body.temperature, temperature),
        top_p=_given(body.top_p, top_p),
        top_k=max(0, int(_given(body.top_k, top_k))),  # -1 means off, as in vLLM
        min_p=_given(body.min_p, 0.0),
        seed=body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        logit_bias=body.token_biases,
    )


def max_tokens(
    body: GenerationFields, *, num_prompt_tokens: int, context: int, default: int, param: str = "messages"
) -> int:
    """Returns how many tokens may be generated: what was asked for, or ``default`` cut to what fits.

    Raises:
        ContextLengthError: prompt, which ``param`` holds, or prompt and ``max_tokens``, exceed ``context``.
    """
    check_prompt(num_prompt_tokens, context, param=param)
    asked = body.max_new_tokens
    room = context - num_prompt_tokens
    if asked is None:
        return min(default, room)
    if asked > room:
        limit = _limit_param(body)
        raise ContextLengthError(
            f"This model's context is {context} tokens; the prompt takes {num_prompt_tokens} and "
            f"{asked} more were asked for. Shorten it or lower '{limit}' to {room}.",
            param=limit,
        )
    return asked


def _limit_param(body: GenerationFields) -> str:
    is_by_new_name = isinstance(body, ChatCompletionRequest) and body.max_completion_tokens is not None
    return "max_completion_tokens" if is_by_new_name else "max_tokens"


def check_prompt(
    num_prompt_tokens: int, context: int, *, param: str = "messages", qualifier: str = ""
) -> None:
    """Raises ContextLengthError where not one token more would fit; ``qualifier`` goes before the count."""
    if num_prompt_tokens >= context:
        raise ContextLengthError(
            f"This model's context is {context} tokens, but '{param}' takes "
            f"{qualifier}{num_prompt_tokens}. Shorten it.",
            param=param,
        )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
