"""The fields that every request for generated text has: how to choose tokens, when to stop, what to tell."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from .absent import Absent
from .structured import ResponseFormat, StructuredOutputs
from .unions import text_or
from .wire import Integer, TextRequest, WireModel

MAX_STOP_STRINGS = 4
MAX_CHOICES = 8
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


LogitBias = Annotated[
    dict[TokenId, Bias],
    BeforeValidator(_few_biases),
    # What is no token's id is not only beside the pattern: it is refused.
    Field(json_schema_extra={"additionalProperties": False, "maxProperties": MAX_BIASES}),
]


Stop = Annotated[
    Annotated[StopString, Tag("<text>")]
    | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS), Tag("<list>")],
    Discriminator(
        text_or("<list>", list),
        custom_error_type="stop",
        custom_error_message=f"Input should be a string or a list of up to {MAX_STOP_STRINGS} strings",
    ),
]


class StreamOptions(WireModel):
    """What a stream tells besides text: usage in a last chunk, and, as vLLM has it, so far in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(TextRequest):
    """How tokens are chosen, and when to stop."""

    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[Integer, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Stop | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None

    # Beyond OpenAI's reference, named as vLLM and llama.cpp name them.
    top_k: Annotated[Integer, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None

    bad_words: Annotated[Any, Absent([])] = None
    grammar: Annotated[Any, Absent("")] = None
    guided_choice: Annotated[Any, Absent()] = None
    guided_grammar: Annotated[Any, Absent()] = None
    guided_json: Annotated[Any, Absent()] = None
    guided_regex: Annotated[Any, Absent()] = None
    length_penalty: Annotated[Any, Absent(1)] = None
    logits_processors: Annotated[Any, Absent([])] = None
    min_tokens: Annotated[Any, Absent(0)] = None
    prompt_logprobs: Annotated[Any, Absent()] = None
    stop_token_ids: Annotated[Any, Absent([])] = None
    use_beam_search: Annotated[Any, Absent(False)] = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, whichever form they came in."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def token_biases(self) -> tuple[tuple[int, float], ...]:
        """What to add to which logits."""
        return tuple((int(token_id), bias) for token_id, bias in (self.logit_bias or {}).items())


class GenerationFields(SamplingFields):
    """What chats and texts have besides: how much of what to tell."""

    max_tokens: Annotated[Integer, Field(ge=1)] | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def max_new_tokens(self) -> int | None:
        """How many tokens the client asks for at most."""
        return self.max_tokens

    @property
    def num_choices(self) -> int:
        """How many answers to a prompt are wanted."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def includes_usage_so_far(self) -> bool:
        """Whether, where a stream ends with usage, the chunks before tell what it has cost so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)
