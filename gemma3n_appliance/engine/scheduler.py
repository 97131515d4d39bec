"""Who runs next: sequences wait in line for a slot, are read in chunks, and then decode together."""

from collections import deque
from dataclasses import dataclass, field

from .sequence import Sequence


@dataclass
class Scheduler:
    """Pure decisions over ``num_slots`` slots, which go to who comes first.

    A sequence waits, then is prefilling, then decoding. One chunk of one prompt is read between two decode
    steps, so a running stream never stalls longer than that. The chunks are in turns of the prompt that has
    a slot longest, and of the shortest: a question waits for no long document, nor that for all questions.
    How many may wait, `Engine` decides, which can still tell the client. Who has a leader lets others pass
    until the leader's prompt has been read.
    """

    num_slots: int
    waiting: deque[Sequence] = field(default_factory=deque)
    prefilling: dict[int, Sequence] = field(default_factory=dict)
    decoding: dict[int, Sequence] = field(default_factory=dict)
    _was_shortest: bool = False

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.prefilling or self.decoding)

    def submit(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the line."""
        self.waiting.append(sequence)

    def next_waiting(self) -> tuple[list[int], Sequence] | None:
        """The first in line, with the slots it may have; None if nobody waits or no slot is free."""
        free = [slot for slot in range(self.num_slots) if self._is_free(slot)]
        first = next((sequence for sequence in self.waiting if not self._follows(sequence)), None)
        return (free, first) if free and first else None

    def admit(self, slot: int, sequence: Sequence) -> None:
        """Gives one of those in line a free slot."""
        self.waiting.remove(sequence)
        self.prefilling[slot] = sequence

    def next_prefill(self) -> tuple[int, Sequence] | None:
        """The sequence of whose prompt a chunk is read next."""
        self._was_shortest = not self._was_shortest
        if self._was_shortest:
            return min(self.prefilling.items(), key=lambda item: item[1].num_to_read, default=None)
        return next(iter(self.prefilling.items()), None)

    def prefilled(self, slot: int) -> None:
        """Moves a sequence whose prompt has been read to those that decode."""
        self.decoding[slot] = self.prefilling.pop(slot)

    def remove(self, sequence: Sequence) -> int | None:
        """Takes a sequence out wherever it is, if it is anywhere; returns the slot that it frees.

        A leader whose prompt has not been read takes those with it that wait for that.
        """
        if sequence not in self.decoding.values():
            self.waiting = deque(each for each in self.waiting if sequence not in (each, each.leader))
        for group in (self.prefilling, self.decoding):
            for slot, other in group.items():
                if other is sequence:
                    del group[slot]
                    return slot
        return None

    def sequences(self) -> list[Sequence]:
        """Everyone, running ones first."""
        return [*self.prefilling.values(), *self.decoding.values(), *self.waiting]

    def _follows(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        return leader is not None and (leader in self.waiting or leader in self.prefilling.values())

    def _is_free(self, slot: int) -> bool:
        return slot not in self.prefilling and slot not in self.decoding
