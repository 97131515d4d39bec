"""The fields in the body of ``POST /v1/chat/completions``."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from .messages import Message
from .structured import ResponseFormat, StructuredOutputs
from .tools import MAX_TOOLS, Tool, ToolChoice
from .wire import WireModel

MAX_MESSAGES = 10_000
MAX_STOP_STRINGS = 4
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1_024
_INT64 = 2**63

StopString = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
# A token's id, as JSON has to write the name of a field.
TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


def _few_biases(value: Any) -> Any:
    """Looks at how many there are before anything looks at one."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise PydanticCustomError("too_many", f"Input should have at most {MAX_BIASES} entries")
    return value


LogitBias = Annotated[dict[TokenId, Bias], BeforeValidator(_few_biases)]


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
    """What a stream tells besides text: usage in a last chunk, and, as vLLM has it, so far in every chunk."""

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
    frequency_penalty: Penalty | None = None
    function_call: Any = None
    functions: Any = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, Any] | None = None
    modalities: Any = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    service_tier: str | None = None
    stop: Stop | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None

    # Beyond OpenAI's reference, named as vLLM and llama.cpp name them.
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
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
