"""How to sample and for how long: the request's word first, then the checkpoint's, then the server's."""

from ..engine.request import Sampling
from ..errors import ContextLengthError
from ..protocol.chat_request import ChatCompletionRequest


def sampling(body: ChatCompletionRequest, *, temperature: float, top_k: int, top_p: float) -> Sampling:
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


def max_tokens(body: ChatCompletionRequest, *, num_prompt_tokens: int, context: int, default: int) -> int:
    """Returns how many tokens may be generated: what was asked for, or ``default`` cut to what fits.

    Raises:
        ContextLengthError: prompt, or prompt and ``max_tokens``, exceed ``context`` tokens.
    """
    check_prompt(num_prompt_tokens, context)
    asked = body.max_new_tokens
    room = context - num_prompt_tokens
    if asked is None:
        return min(default, room)
    if asked > room:
        raise ContextLengthError(
            f"This model's context is {context} tokens; the messages take {num_prompt_tokens} and "
            f"{asked} more were asked for. Shorten the messages or lower 'max_tokens' to {room}.",
            param="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        )
    return asked


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
