"""The norm that Gemma 3n has nine of in every layer."""

import math

import torch
from torch import Tensor
from torch.nn import functional


class RMSNorm:
    """Scales the last dimension to a root mean square of one, times ``weight``, in float32 inside.

    What it computes is transformers' ``Gemma3nRMSNorm``. ``weight`` is ``[size]``, or ``[heads, size]`` where
    each head has its own.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps
        self._is_on_cpu = weight.device.type == "cpu"
        if self._is_on_cpu:
            # Torch's own is nine kernels there; with these two constants it takes five.
            size = weight.shape[-1]
            self._weight = weight.float() * math.sqrt(size)
            self._shortest = torch.tensor(math.sqrt(eps * size))

    @property
    def weight(self) -> Tensor:
        """As it was given, on a GPU."""
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``x`` normed, in its own dtype."""
        if self._is_on_cpu:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
            # The square root of what is summed and of eps times the size.
            return (x / torch.hypot(length, self._shortest)).mul_(self._weight).to(x.dtype)
        if self._weight.ndim == 1:
            return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return functional.rms_norm(x, self._weight.shape[-1:], None, self._eps) * self._weight
