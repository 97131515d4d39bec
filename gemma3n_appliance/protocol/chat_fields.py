"""The fields in the body of ``POST /v1/chat/completions``."""

from typing import Annotated, Any

from pydantic import Field

from .generation_fields import GenerationFields
from .messages import Message
from .tools import MAX_TOOLS, Tool, ToolChoice

MAX_MESSAGES = 10_000
MAX_TOP_LOGPROBS = 20


class ChatFields(GenerationFields):
    """Every field by name and type.

    What this server does not do yet is declared too, so that ``refusals`` can name it instead of ignoring it;
    as Any where it may hold many values, so that none of them is looked at.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, Any] | None = None
    modalities: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    verbosity: str | None = None
    web_search_options: Any = None

    # Beyond OpenAI's reference.
    echo: Any = None
