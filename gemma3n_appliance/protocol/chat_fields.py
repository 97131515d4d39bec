"""The fields in the body of ``POST /v1/chat/completions``."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from .messages import Message
from .wire import WireModel

MAX_MESSAGES = 10_000
MAX_STOP_STRINGS = 4
_INT64 = 2**63

StopString = Annotated[str, Field(min_length=1)]


def _stop_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<list>" if isinstance(value, list) else None


Stop = Annotated[
    Annotated[StopString, Tag("<text>")]
    | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS), Tag("<list>")],
    Discriminator(
        _stop_form,
        custom_error_type="stop",
        custom_error_message=f"Input should be a string or a list of up to {MAX_STOP_STRINGS} strings",
    ),
]


class StreamOptions(WireModel):
    """What a stream tells besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatFields(WireModel):
    """Every field by name and type.

    What this server does not do yet is declared too, so that ``refusals`` can name it instead of ignoring it;
    as Any where it may hold many values, so that none of them is looked at.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    model: Annotated[str, Field(min_length=1)]
    audio: Any = None
    frequency_penalty: float | None = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, Any] | None = None
    modalities: Any = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    response_format: Any = None
    safety_identifier: str | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    service_tier: str | None = None
    stop: Stop | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: int | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None

    # Beyond OpenAI's reference, named as vLLM and llama.cpp name them.
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    structured_outputs: Any = None
    bad_words: Any = None
    best_of: Any = None
    echo: Any = None
    grammar: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    length_penalty: Any = None
    logits_processors: Any = None
    min_tokens: Any = None
    prompt_logprobs: Any = None
    stop_token_ids: Any = None
    use_beam_search: Any = None
