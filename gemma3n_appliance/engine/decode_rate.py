"""How fast the engine has decoded lately."""

from collections import deque

NUM_STEPS = 256


class DecodeRate:
    """Adds up the last decode steps; the time between them, when nobody asks for anything, does not count."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=NUM_STEPS)

    def record(self, num_tokens: int, step_s: float) -> None:
        """Notes a step that gave so many tokens, at most one for each of its slots."""
        self._steps.append((num_tokens, step_s))

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second of all slots together; None before the first step. For any thread to read."""
        steps = tuple(self._steps)
        seconds = sum(step_s for _, step_s in steps)
        return sum(num_tokens for num_tokens, _ in steps) / seconds if seconds else None
