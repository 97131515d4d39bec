"""The norm that Gemma 3n has nine of in every layer."""

import math

import torch
from torch import Tensor
from torch.nn import functional

# Up to so many numbers a CPU takes longer to be asked for something than to do it.
_FEW = 1 << 15


class RMSNorm:
    """Scales the last dimension to a root mean square of one, times ``weight``, in float32 inside.

    What it computes is transformers' ``Gemma3nRMSNorm``. ``weight`` is ``[size]``, or ``[heads, size]`` where
    each head has its own.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._given = self._weight = weight
        self._eps = eps
        self._is_on_cpu = weight.device.type == "cpu"
        if self._is_on_cpu:
            # Torch's own is nine kernels there; with these constants it takes two, or of many numbers five.
            size = weight.shape[-1]
            self._shape_of_both = (2, size)
            self._weight = weight.float() * math.sqrt(size)
            self._shortest = torch.tensor(math.sqrt(eps * size))
            self._signs = torch.tensor([[1.0], [-1.0]], dtype=weight.dtype)
            self._weight_of_both = weight.expand(2, -1).contiguous() if weight.ndim == 1 else None
            self._weight_of_heads = None if weight.ndim == 1 else weight[:, None]

    @property
    def weight(self) -> Tensor:
        """As it was given."""
        return self._given

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``x`` normed, in its own dtype; it may be a view."""
        if self._is_on_cpu:
            return self._both(x).select(-2, 0) if x.numel() <= _FEW else self._by_its_length(x)
        if self._weight.ndim == 1:
            return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return functional.rms_norm(x, self._weight.shape[-1:], None, self._eps) * self._weight

    def beside_its_negative(self, x: Tensor) -> Tensor | None:
        """Returns ``[..., 2 * size]``: ``x`` normed, then its negative; None where it is not at hand."""
        return self._both(x).flatten(-2) if self._is_on_cpu and x.numel() <= _FEW else None

    def _both(self, x: Tensor) -> Tensor:
        """Numbers and their negatives have a mean of zero, and a variance that is the mean square."""
        both = x.unsqueeze(-2) * self._signs
        normed = torch.layer_norm(both, self._shape_of_both, self._weight_of_both, None, self._eps)
        return normed if self._weight_of_heads is None else normed * self._weight_of_heads

    def _by_its_length(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        # The square root of what is summed and of eps times the size.
        return (x / torch.hypot(length, self._shortest)).mul_(self._weight).to(x.dtype)
