"""How AltUp's streams of a token begin and end; what the layers do with them between is `layer.Layer`'s."""

import math

import torch
from torch import Tensor

from .cuda_kernels import CudaKernels
from .layer import NUM_STREAMS
from .rms_norm import RMSNorm

_SMALLEST_MEAN_SQUARE = 1e-5


class Streams:
    """Over torch's operations; ``norm`` is the model's last."""

    def __init__(self, hidden_size: int, norm: RMSNorm) -> None:
        self._smallest = math.sqrt(_SMALLEST_MEAN_SQUARE * hidden_size)
        self._norm = norm

    def begin(self, hidden: Tensor, projected: Tensor) -> Tensor:
        """Returns ``[num_tokens, 5, hidden_size]``: embeddings, and what is projected, made as long as they.

        ``projected`` is ``[num_tokens, 3 * hidden_size]``. The last row is whatever the layers can overwrite.
        """
        others = projected.view(len(hidden), NUM_STREAMS - 1, -1)
        scaled = others * (_length(hidden)[:, None] / self._clamped_length(others))
        return torch.cat([hidden[:, None], scaled, hidden[:, None]], dim=1)

    def end(self, rows: Tensor, others: Tensor) -> Tensor:
        """Returns ``[num_tokens, hidden_size]``: the mean of the streams, made as long as the first, normed.

        ``others`` is what is projected from all but the first, ``[3, num_tokens, hidden_size]``.
        """
        first = rows[:, 0]
        scaled = others * (_length(first) / self._clamped_length(others))
        return self._norm((first + scaled.sum(dim=0)) / NUM_STREAMS)

    def _clamped_length(self, x: Tensor) -> Tensor:
        return _length(x).clamp(min=self._smallest)


class CudaStreams(Streams):
    """Over our own kernels."""

    def __init__(self, kernels: CudaKernels, hidden_size: int, norm: RMSNorm) -> None:
        super().__init__(hidden_size, norm)
        self._kernels = kernels

    def begin(self, hidden: Tensor, projected: Tensor) -> Tensor:
        """See `Streams`."""
        return self._kernels.begin(hidden, projected, self._smallest)

    def end(self, rows: Tensor, others: Tensor) -> Tensor:
        """See `Streams`."""
        return self._kernels.end(rows, others, self._norm.weight, self._smallest)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)
