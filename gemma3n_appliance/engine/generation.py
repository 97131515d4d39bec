"""What one client asks for at once, on its way through the engine: who of it is in line, and its events."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial

from .events import Event, Finished
from .loop import Loop
from .request import GenerationRequest
from .runner import LoadedModel
from .sequence import Sequence


class Generation:
    """Keeps no more sequences in line than there are slots, or than one request has choices.

    Whoever asks for many prompts at once leaves others their places in line. Its methods belong to the event
    loop's thread.
    """

    def __init__(self, requests: tuple[GenerationRequest, ...], model: LoadedModel, loop: Loop) -> None:
        self._model = model
        self._loop = loop
        self._backlog = deque(requests)
        self._in_line: set[Sequence] = set()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._event_loop = asyncio.get_running_loop()
        self._asked_s = time.monotonic()

    @property
    def num_unfinished(self) -> int:
        """How many choices have not been told to their ends; nobody has to have read them."""
        return len(self._in_line) + sum(request.num_choices for request in self._backlog)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields the events of all choices. Leaving early cancels them; an error of one is the end of all."""
        num_untold = self.num_unfinished
        self._fill()
        try:
            while num_untold:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                num_untold -= isinstance(event, Finished)
                yield event
        finally:
            self._give_up()

    def fail(self, error: Exception) -> None:
        """Ends it with an error, whatever it is doing."""
        self._give_up()
        self._events.put_nowait(error)

    def _fill(self) -> None:
        while self._backlog and len(self._in_line) < self._model.runner.num_slots:
            sequences = self._sequences(self._backlog.popleft())
            self._in_line.update(sequences)
            for sequence in sequences:
                self._loop.submit(sequence)

    def _sequences(self, request: GenerationRequest) -> list[Sequence]:
        """Returns one sequence for each choice; the first reads the prompt for all."""
        sequences: list[Sequence] = []

        def sink(choice: int, event: Event | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # nobody listens once the event loop is closed
                self._event_loop.call_soon_threadsafe(self._take, sequences[choice], event)

        for choice in range(request.num_choices):
            leader = sequences[0] if sequences else None
            sequences.append(
                Sequence(request, self._model, partial(sink, choice), choice, leader, asked_s=self._asked_s)
            )
        return sequences

    def _take(self, sequence: Sequence, event: Event | Exception) -> None:
        if isinstance(event, Exception):
            self.fail(event)
            return
        self._events.put_nowait(event)
        if isinstance(event, Finished):
            # Not when the last event is read: a client that reads slowly holds no place in the queue.
            self._in_line.discard(sequence)
            self._fill()

    def _give_up(self) -> None:
        self._backlog.clear()
        for sequence in self._in_line:
            self._loop.cancel(sequence)
        self._in_line.clear()
