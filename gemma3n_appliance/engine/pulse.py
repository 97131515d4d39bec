"""Whether the engine's thread still makes progress, for other threads to see."""

import time


class Pulse:
    """Knows until when the thread that beats it is expected to beat again; at rest it is not expected to."""

    def __init__(self, step_limit_s: float) -> None:
        """A step that has not ended after ``step_limit_s`` counts as hung."""
        self._step_limit_s = step_limit_s
        self._due_s: float | None = None

    def beat(self, within_s: float | None = None) -> None:
        """Begins the next step, which is to end ``within_s`` seconds where it may take longer than others."""
        self._due_s = time.monotonic() + (self._step_limit_s if within_s is None else within_s)

    def rest(self) -> None:
        """Says that there is nothing to do, or something that may take for ever."""
        self._due_s = None

    @property
    def is_overdue(self) -> bool:
        """Whether a step should have ended by now."""
        due_s = self._due_s
        return due_s is not None and time.monotonic() > due_s
