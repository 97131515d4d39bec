"""How long whoever finds the queue full had better wait before trying again."""

import math

# Until a request has finished nobody knows; a few seconds are right for a chat on a small board.
FIRST_GUESS_S = 5.0
WEIGHT_OF_NEWEST = 0.2


class WaitEstimate:
    """Averages how long requests hold their slots, newer ones counting more."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def record(self, request_s: float) -> None:
        """Notes that a request has held its slot for so long."""
        mean_s = request_s if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + WEIGHT_OF_NEWEST * (request_s - mean_s)

    def retry_after_s(self, num_waiting: int, num_slots: int) -> int:
        """Returns whole seconds, at least 1, in which one more than ``num_waiting`` should get a slot."""
        mean_s = FIRST_GUESS_S if self._mean_s is None else self._mean_s
        return max(1, math.ceil(mean_s * (num_waiting + 1) / num_slots))
