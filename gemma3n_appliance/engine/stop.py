"""Stop strings in a stream of text that is cut anywhere."""


class StopStrings:
    """Passes text on until a stop string appears; nothing of a stop string ever gets out.

    The text ends before the stop string that is complete first, so how it is cut makes no difference.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """Returns the text that can be given out: no stop string can begin in it any more."""
        if self.matched:
            return ""
        self._held += text
        begin = self._first_match()
        if begin is not None:
            self.matched = True
            return self._release(begin)
        return self._release(len(self._held) - self._num_undecided())

    def flush(self) -> str:
        """Returns what was held back, now that nothing follows."""
        return "" if self.matched else self._release(len(self._held))

    def _first_match(self) -> int | None:
        """Where the stop string begins that ends first; the longest of several that end there."""
        matches = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(matches)[1] if matches else None

    def _num_undecided(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text
