"""The body of ``POST /v1/completions``: prompts without a chat's form, as OpenAI had them before chats."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from ..errors import InvalidRequestError
from .absent import Absent, refuse_absent
from .generation_fields import MAX_CHOICES, GenerationFields
from .refusals import check_stream_options, check_structure
from .wire import Integer

MAX_PROMPTS = 64
# Of all prompts together; fewer where each token has its likeliest beside it.
MAX_ANSWERS = 64
MAX_ANSWERS_WITH_LOGPROBS = MAX_CHOICES
# More than any context.
MAX_PROMPT_TOKENS = 100_000
MAX_LOGPROBS = 20
# OpenAI's default: without a chat's form, hardly a model finds an end.
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[
    list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]


def _prompt_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list) or not value:
        return None
    kinds = {str: "<texts>", int: "<ids>", list: "<lists>"}
    return kinds.get(type(value[0]))


Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<texts>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<lists>")],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt",
        custom_error_message="Input should be a string, or a list of strings, token ids or lists of ids",
    ),
]


class CompletionRequest(GenerationFields):
    """One or several prompts to continue, and how.

    ``logprobs`` is how many of the likeliest tokens to tell of besides the chosen one. ``add_special_tokens``
    says whether what begins a prompt goes before texts; token ids are as they are.
    """

    prompt: Prompt
    add_special_tokens: bool | None = None
    best_of: Integer | None = None
    echo: bool | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Annotated[Any, Absent("")] = None

    def check(self) -> None:
        """Raises InvalidRequestError for what is not there, and for fields that contradict each other."""
        refuse_absent(self)
        check_stream_options(self)
        check_structure(self)
        if self.echo and self.logprobs is not None:
            raise InvalidRequestError(
                "There are no log-probabilities of prompts: leave out 'echo' or 'logprobs'.", param="logprobs"
            )
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidRequestError(
                "'best_of' other than 'n' is not supported by this server: leave it out.", param="best_of"
            )
        most = MAX_ANSWERS if self.logprobs is None else MAX_ANSWERS_WITH_LOGPROBS
        if len(self.prompts) * self.num_choices > most:
            raise InvalidRequestError(
                f"{len(self.prompts)} prompts with {self.num_choices} answers each are more than {most}: "
                "send some of them later.",
                param="prompt",
            )

    @property
    def has_several_prompts(self) -> bool:
        """Whether prompts came in a list."""
        return isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each of them text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt
