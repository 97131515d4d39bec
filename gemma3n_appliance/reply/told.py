"""What replies of every kind make of the engine's events: count them, gather them, pass them on."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from .. import __version__
from ..engine.events import Event, Finished, Started
from ..errors import EngineError
from ..protocol.reply import PromptTokensDetails, Reply, Usage

Events = AsyncGenerator[Event, None]
ChunkT = TypeVar("ChunkT", covariant=True)

SYSTEM_FINGERPRINT = f"gemma3n-appliance-{__version__}"
# What OpenAI writes for a probability of next to nothing, where JSON has no infinity.
_LEAST_LOGPROB = -9999.0


@dataclass
class Tally:
    """What a reply has cost so far, over all of its choices; a prompt is read, and counted, once."""

    num_choices_a_prompt: int = 1
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_finished: int = 0
    _num_by_choice: dict[int, int] = field(default_factory=dict)

    @property
    def num_completion_tokens(self) -> int:
        """How many tokens were generated."""
        return sum(self._num_by_choice.values())

    def note(self, event: Event) -> None:
        """Counts what an event tells."""
        if isinstance(event, Started):
            if event.choice % self.num_choices_a_prompt == 0:
                self.num_prompt_tokens += event.num_prompt_tokens
                self.num_cached_tokens += event.num_cached_tokens
        else:
            self._num_by_choice[event.choice] = event.num_completion_tokens
            self.num_finished += isinstance(event, Finished)

    def usage(self, *, num_image_tokens: int = 0, num_audio_tokens: int = 0) -> Usage:
        """Returns what has been counted, in the words of the wire."""
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=self.num_completion_tokens,
            total_tokens=self.num_prompt_tokens + self.num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=self.num_cached_tokens,
                audio_tokens=num_audio_tokens,
                image_tokens=num_image_tokens,
            ),
        )


@dataclass(frozen=True)
class Told:
    """All that the engine told: what it cost, and each choice's events by its number, in order."""

    tally: Tally
    events: dict[int, list[Event]]


class ChunkedReply(Protocol[ChunkT]):
    """A reply that can be told in chunks; those of prompts that are asked together count on."""

    @property
    def num_prompts(self) -> int:
        """How many prompts it answers."""
        ...

    @property
    def num_choices(self) -> int:
        """How many answers there are to each prompt."""
        ...

    def tell(self, event: Event, tally: Tally) -> Iterable[ChunkT]:
        """Yields the chunks that tell of an event, if there is something to tell."""
        ...

    def tell_end(self, tally: Tally) -> Iterable[ChunkT]:
        """Yields the chunks that come after all choices' ends."""
        ...

    def whole(self, told: Told) -> Reply:
        """Returns the whole reply."""
        ...


async def chunks(events: Events, reply: ChunkedReply[ChunkT]) -> AsyncGenerator[ChunkT, None]:
    """Yields what there is to tell, as it comes."""
    tally = Tally(reply.num_choices)
    async with aclosing(events):
        async for event in events:
            tally.note(event)
            for chunk in reply.tell(event, tally):
                yield chunk
    if tally.num_finished == reply.num_prompts * reply.num_choices:
        for chunk in reply.tell_end(tally):
            yield chunk


async def gather(events: Events, reply: ChunkedReply[ChunkT]) -> Told:
    """Returns what there is to tell, once it is all there.

    Raises:
        EngineError: the events end before they have told the end.
    """
    tally = Tally(reply.num_choices)
    told: dict[int, list[Event]] = defaultdict(list)
    async with aclosing(events):
        async for event in events:
            tally.note(event)
            told[event.choice].append(event)
    if tally.num_finished < reply.num_choices * reply.num_prompts:
        raise EngineError("The engine stopped before the answer was complete. Send the request again.")
    return Told(tally, {choice: told[choice] for choice in sorted(told)})


def finite(logprob: float) -> float:
    """Returns the logarithm of a probability as JSON can tell it."""
    return max(logprob, _LEAST_LOGPROB)
