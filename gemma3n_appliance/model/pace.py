"""How far a host may be ahead of its GPU."""

import torch


class Pace:
    """Lets a host queue one chunk of a prompt while a GPU computes the one before, and no more.

    What is queued is computed, for a client that has hung up as well, and before whoever comes next.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._before: torch.cuda.Event | None = None

    def queued(self) -> None:
        """Says that a chunk has been queued, and returns when the one before is computed."""
        if not self._is_gpu:
            return
        event = torch.cuda.Event(blocking=True)
        event.record()
        if self._before is not None:
            self._before.synchronize()
        self._before = event
