"""What ``POST /v1/completions`` answers, plainly and in each frame of a stream."""

from typing import Literal

from pydantic import BaseModel

from .reply import Reply, Usage


class CompletionLogprobs(BaseModel):
    """The tokens of a text; ``text_offset`` counts characters from where the text of the choice begins.

    ``top_logprobs`` has the chosen token as well as the likeliest, as OpenAI's have.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text, or more of it; ``finish_reason`` comes with the end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Reply):
    """The reply. In streams ``usage`` is set if the client asked for it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str
