"""What the engine tells: one stream of events a request, the same for plain and streamed replies.

``Started`` once, ``TextDelta`` any number of times, ``Finished`` once and last. A failure is raised from
the iterator instead.
"""

from dataclasses import dataclass
from enum import Enum


class FinishReason(str, Enum):
    """Why generation ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt has been read."""

    num_prompt_tokens: int
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text; never empty, never part of a character or of a stop string. Counts tokens so far."""

    text: str
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end. ``num_completion_tokens`` includes the token that ended it."""

    reason: FinishReason
    num_completion_tokens: int


Event = Started | TextDelta | Finished
