"""The fields in the body of ``POST /v1/chat/completions``."""

from typing import Annotated, Any

from pydantic import Field

from .absent import Absent
from .generation_fields import GenerationFields
from .messages import Message
from .tools import MAX_TOOLS, Tool, ToolChoice
from .wire import Integer

MAX_MESSAGES = 10_000
MAX_TOP_LOGPROBS = 20


class ChatFields(GenerationFields):
    """Every field by name and type; of what is absent nothing is looked at."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    audio: Annotated[Any, Absent()] = None
    function_call: Annotated[Any, Absent("none", "auto")] = None
    functions: Annotated[Any, Absent([])] = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[Integer, Field(ge=1)] | None = None
    metadata: dict[str, Any] | None = None
    modalities: Annotated[Any, Absent(["text"])] = None
    parallel_tool_calls: bool | None = None
    prediction: Annotated[Any, Absent()] = None
    prompt_cache_key: str | None = None
    reasoning_effort: Annotated[Any, Absent("none")] = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    verbosity: Annotated[Any, Absent("medium")] = None
    web_search_options: Annotated[Any, Absent()] = None

    # Beyond OpenAI's reference.
    best_of: Annotated[Any, Absent(1)] = None
    echo: Annotated[Any, Absent(False)] = None
