"""What the engine tells: one stream of events a request, the same for plain and streamed replies.

For each choice ``Started`` once, ``TextDelta`` and ``CallDelta`` any number of times, ``Finished`` once and
last. Those of several choices come mixed, and the first is always choice 0's. A failure is raised from the
iterator instead.
"""

from dataclasses import dataclass, field
from enum import Enum


class FinishReason(str, Enum):
    """Why generation ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt has been read, and the first token is there.

    ``queued_s`` is how long it stood in line for a slot, and ``prefill_s`` how long it then took.
    """

    num_prompt_tokens: int
    num_cached_tokens: int = 0
    choice: int = 0
    queued_s: float = field(default=0.0, compare=False)
    prefill_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """How likely a token was, to the model itself: before temperature, penalties and biases.

    ``piece`` holds the bytes it stands for, which may be part of a character; None for control tokens.
    ``top`` lists the likeliest tokens at its place, likeliest first, without tops of their own.
    """

    token: str
    piece: bytes | None
    logprob: float
    top: tuple["ScoredToken", ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text; never part of a character or of a stop string. Counts tokens so far.

    ``logprobs`` are those of the tokens that begin in it, where the request wants them; only tokens without a
    text leave ``text`` empty.
    """

    text: str
    num_completion_tokens: int
    logprobs: tuple[ScoredToken, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call of a function, the ``index``-th of its answer. Counts tokens so far.

    The first of a call has its ``call_id`` and ``name``, the others more of its ``arguments``, as JSON.
    """

    index: int
    num_completion_tokens: int
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end. ``num_completion_tokens`` includes the token that ended it."""

    reason: FinishReason
    num_completion_tokens: int
    choice: int = 0


Event = Started | TextDelta | CallDelta | Finished
