"""Says in the appliance's words that memory has run out."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import InsufficientMemoryError

# Tegra's allocator fails beneath torch's own: what arrives is a plain RuntimeError about NVML or NvMap
# (torch asks NVML for figures that a Jetson does not have). On the CPU it names its allocator.
_SIGNS = (
    "NVML",
    "NvMap",
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

_SMALLER_REQUEST = (
    "Try again later, with a shorter prompt or a smaller max_tokens. If it happens often, lower NUM_SLOTS or "
    "CONTEXT_LENGTH."
)


@contextmanager
def named_when_exhausted(what: str, remedy: str = _SMALLER_REQUEST) -> Iterator[None]:
    """Raises InsufficientMemoryError in place of any of torch's ways to say that memory has run out.

    ``what`` needed the memory, such as ``"this prompt"``; ``remedy`` is a sentence.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhaustion(error):
            raise
        # The traceback would keep every tensor of the failed computation alive for as long as the error is.
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()
        raise InsufficientMemoryError(
            f"The device has not enough free memory for {what}. {remedy}", retry_after_s=5
        ) from error


def is_exhaustion(error: RuntimeError | MemoryError) -> bool:
    """Whether that is one of torch's ways to say that memory has run out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in _SIGNS
    )
