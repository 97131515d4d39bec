"""The torch seam: what the engine needs of a model.

Called from the engine's thread only, but for the two numbers, which never change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .grammar import Grammars
from .request import GenerationRequest


@dataclass(frozen=True)
class Admission:
    """The slot that a request was given, and how many of its prompt's tokens need not be read again."""

    slot: int
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of a token's probability, and of the likeliest tokens', ``(token_id, logprob)``."""

    chosen: float
    top: tuple[tuple[int, float], ...]


class Runner(Protocol):
    """Computes tokens over a fixed number of slots.

    A slot goes ``begin`` → ``prefill`` until it gives the first token → ``decode`` any number of times →
    ``release``. ``release`` is valid at any moment after ``begin``, also after an error in one of the others;
    after an error in ``begin`` there is nothing to release.
    An exception that names one slot's work (``begin``, ``prefill``) leaves the other slots as they are.
    """

    @property
    def num_slots(self) -> int:
        """How many requests can run at once."""
        ...

    @property
    def max_context(self) -> int:
        """Prompt and completion tokens that one slot can hold."""
        ...

    def begin(self, free: Sequence[int], request: GenerationRequest) -> Admission:
        """Takes one of the free slots for a request, that which has most of its prompt."""
        ...

    def prefill(self, slot: int, max_tokens: int) -> int | None:
        """Runs at most ``max_tokens`` more prompt tokens; returns the first new token once all have run."""
        ...

    def decode(self, slots: Sequence[int]) -> list[int | None]:
        """Returns every slot's next token, in order, computed in one batch.

        None is for one whose grammar still thinks: it holds up no other, and is to be asked again. What it
        knows of its next token by then is kept.
        An exception leaves every slot as it was: the step can be tried again with fewer.
        """
        ...

    def logprobs(self, slot: int) -> Logprobs | None:
        """How likely the token was that the slot was given last; None unless its request asks."""
        ...

    def release(self, slot: int) -> None:
        """Forgets the slot's request."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A runner and what the engine must know to turn its tokens into text.

    ``pieces`` maps a token id to the bytes it stands for; control tokens stand for none, and have a name.
    ``num_bytes_left_on_disk`` of the weights are read from their file as they are needed, and held in memory
    only while there is room.
    """

    runner: Runner
    pieces: Sequence[bytes] = field(repr=False)
    eos_token_ids: frozenset[int]
    device: str
    grammars: Grammars = field(repr=False)
    control_tokens: Mapping[int, str] = field(default_factory=dict, repr=False)
    has_vision: bool = True
    has_audio: bool = True
    num_bytes_left_on_disk: int = 0
