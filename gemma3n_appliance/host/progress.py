"""Shows how far a transfer is: a bar on a terminal, plain lines in a journal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

MB = 1_000_000
LINE_EVERY_S = 10.0
LINE_EVERY_PERCENT = 10


class Progress(Protocol):
    """Where work on many bytes reports to. ``advance`` is valid within ``track`` only."""

    def track(self, title: str, total: int, done: int = 0) -> AbstractContextManager[None]:
        """Follows ``total`` bytes of which ``done`` are there already."""
        ...

    def advance(self, num_bytes: int) -> None:
        """Tells of more bytes, or of fewer."""
        ...

    def say(self, message: str) -> None:
        """Tells a person something."""
        ...


class ProgressBar:
    """A bar that redraws itself, for terminals."""

    def __init__(self) -> None:
        # Takes long to import, and few processes have a terminal.
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # public, but exported lazily

        self._new_bar = tqdm

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        """See ``Progress.track``."""
        self._bar = self._new_bar(desc=title, total=total, initial=done, unit="B", unit_scale=True)  # type: ignore[no-untyped-call]
        with self._bar:
            yield

    def advance(self, num_bytes: int) -> None:
        """Moves the bar."""
        self._bar.update(num_bytes)

    def say(self, message: str) -> None:
        """Prints above the bar."""
        self._new_bar.write(message, file=sys.stderr)


class ProgressLines:
    """A line every ten seconds or ten percent, whichever comes first, for journals."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        """See ``Progress.track``."""
        self._title, self._total = title, total
        self._done = self._done_at_start = done
        self._started_s = time.monotonic()
        self._plan_next_line()
        yield

    def advance(self, num_bytes: int) -> None:
        """Writes a line when one is due."""
        self._done += num_bytes
        if self._percent >= self._next_percent or time.monotonic() >= self._next_s:
            self._write(self._line())
            self._plan_next_line()

    def say(self, message: str) -> None:
        """Writes a line."""
        self._write(message)

    @property
    def _percent(self) -> int:
        return 100 * self._done // max(self._total, 1)

    def _plan_next_line(self) -> None:
        self._next_s = time.monotonic() + LINE_EVERY_S
        self._next_percent = (self._percent // LINE_EVERY_PERCENT + 1) * LINE_EVERY_PERCENT

    def _line(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-3)
        rate = (self._done - self._done_at_start) / MB / elapsed_s
        return (
            f"{self._title}: {self._done / MB:.1f} of {self._total / MB:.1f} MB"
            f" ({self._percent} %), {rate:.1f} MB/s"
        )
