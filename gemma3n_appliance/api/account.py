"""What one request for text has cost, in tokens and time: for its line of the log, and for the metrics."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ..engine.events import Event, Finished, Started
from ..reply.told import Events, Tally
from .disconnect import Scope
from .metrics import Metrics

_ACCOUNT = "gemma3n.account"


@dataclass
class Account:
    """One request's. Times are seconds; those before the first token are its first answer's."""

    operation: str
    tally: Tally = field(default_factory=Tally)
    queued_s: float | None = None
    prefill_s: float | None = None
    _told: dict[int, "_Told"] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(cls, scope: Scope, operation: str) -> "Account":
        """Begins the account of a request whose body has been read; `of` finds it."""
        account = cls(operation)
        scope[_ACCOUNT] = account
        return account

    async def kept(self, events: Events, metrics: Metrics) -> AsyncGenerator[Event, None]:
        """Passes the events on, and reads in them what there is to note."""
        async with aclosing(events):
            async for event in events:
                self._note(event, metrics)
                yield event

    @property
    def time_to_first_token_s(self) -> float | None:
        """How long after the request's body had been read its first token was there."""
        return min(told.began for told in self._told.values()) - self._began if self._told else None

    @property
    def decode_s(self) -> float | None:
        """How long after its first token its last was there."""
        if not self._told:
            return None
        began = min(told.began for told in self._told.values())
        return max(told.latest for told in self._told.values()) - began

    def fields(self) -> dict[str, Any]:
        """Returns what the log tells."""
        told = {
            "prompt_tokens": self.tally.num_prompt_tokens,
            "cached_tokens": self.tally.num_cached_tokens,
            "completion_tokens": self.tally.num_completion_tokens,
            "queued_s": self.queued_s,
            "prefill_s": self.prefill_s,
            "first_token_s": self.time_to_first_token_s,
            "decode_s": self.decode_s,
        }
        if self.queued_s is None:
            return {}
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in told.items()
            if value is not None
        }

    def _note(self, event: Event, metrics: Metrics) -> None:
        now = time.perf_counter()
        self.tally.note(event)
        if isinstance(event, Started):
            if event.choice % self.tally.num_choices_a_prompt == 0:
                metrics.prompt_read(event)
            metrics.tokens_told(1)
            self._told[event.choice] = _Told(now, now, 1)
            if self.queued_s is None:
                self.queued_s, self.prefill_s = event.queued_s, event.prefill_s
            return
        told = self._told[event.choice]
        metrics.tokens_told(event.num_completion_tokens - told.num_tokens, after_s=now - told.latest)
        told.latest, told.num_tokens = now, event.num_completion_tokens
        if isinstance(event, Finished):
            metrics.answer_ended(self.operation, event.reason, told.per_token_s)


@dataclass
class _Told:
    """What has been told of an answer: when its first token was there, when its latest, and how many."""

    began: float
    latest: float
    num_tokens: int

    @property
    def per_token_s(self) -> float | None:
        return (self.latest - self.began) / (self.num_tokens - 1) if self.num_tokens > 1 else None


def of(scope: Scope) -> Account | None:
    """Returns the account of a request, if it is one for text and has got so far."""
    account: Account | None = scope.get(_ACCOUNT)
    return account
