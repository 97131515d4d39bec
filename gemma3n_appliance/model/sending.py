"""From the host's memory to a GPU's, without waiting for what the GPU is busy with."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(numbers: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Returns numbers of the host on a device.

    Of memory that can be paged out, CUDA copies after all that it was asked for before, and lets nobody go on
    until then. Pinned memory that nobody holds any more is given to others by torch only when it was copied.
    """
    on_host = torch.as_tensor(numbers)
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)
