"""A layer and its weights over our own CUDA kernels: what `layer.Layer` computes, in half of the launches."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .cuda_kernels import CudaKernels, Packing
from .kv_cache import SLIDING, CacheStep
from .layer import Layer, LayerShape, Rotation
from .linear import GROUP, Dense, Int8, Weights

# Of more tokens than that, numbers are multiplied by tensor cores quicker, and packed ones once unpacked.
_FEW_NUMBERS = 2
_FEW_PACKED = 64
_ALIGNED_BYTES = 16


class CudaLayer(Layer):
    """A layer on a GPU."""

    def __init__(
        self, kernels: CudaKernels, shape: LayerShape, weights: Weights, scales_correction: bool
    ) -> None:
        super().__init__(shape, weights, scales_correction)
        self._kernels = kernels
        gate = self._per_layer_gate
        assert isinstance(gate, _Ours)
        self._choose = gate.chosen

    def forward(self, rows: Tensor, per_layer: Tensor, step: CacheStep, rotation: Rotation) -> Tensor:
        """See `Layer`; overwrites ``rows``."""
        kernels, router = self._kernels, (self._router, self._router_norm.weight)
        normed = kernels.predict(rows, *router, self._prediction, self._input_norm.weight)
        projected = self._inputs(normed)
        num_inputs = self.shape.num_projected_heads * self.shape.head_dim
        attended = self._output(self._attend(projected, step, rotation))
        laurel = self._laurel(projected[:, num_inputs:])
        norms = (self._attention_norm.weight, self._laurel_norm.weight, self._ffn_norm.weight)
        gated, following = kernels.join(attended, laurel, rows, normed, norms)
        fed = self._feed_forward
        down = fed.down(kernels.activate(fed.gate_and_up(following), fed.cutoff))
        kernels.correct(rows, gated, down, self._ffn_output_norm.weight, *router, self._correction)
        chosen = self._choose(rows[:, 0], per_layer)
        kernels.spread(rows, self._per_layer(chosen), self._per_layer_norm.weight)
        return rows

    def _attend(self, projected: Tensor, step: CacheStep, rotation: Rotation) -> Tensor:
        shape, cache = self.shape, step.cache.layers[self.shape.owner]
        queries = self._kernels.rotate(
            projected,
            self._head_norm.weight,
            rotation,
            step.slot_ids,
            step.positions,
            cache,
            shape.num_heads,
            shape.num_projected_heads,
        )
        if step.num_new > 1:
            return self._look(queries, step)
        window = step.cache.sliding_window if shape.layer_type == SLIDING else None
        return self._kernels.attend(queries, cache, step.slot_ids, step.positions, window, step.longest)


class _Ours(ABC):
    """A weight that our kernels multiply by where tokens are few, and torch's where they are many."""

    few: ClassVar[int]

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies."""
        return self._by_us(x, None) if self._is_ours(x) else self._by_torch(x)

    def chosen(self, x: Tensor, factors: Tensor) -> Tensor:
        """Multiplies, and what comes of that, through gelu, by ``factors``."""
        if self._is_ours(x):
            return self._by_us(x, factors)
        return functional.gelu(self._by_torch(x), approximate="tanh") * factors

    def _is_ours(self, x: Tensor) -> bool:
        return len(x) <= self.few and _fits(x)

    @abstractmethod
    def _by_us(self, x: Tensor, factors: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _by_torch(self, x: Tensor) -> Tensor: ...


class CudaDense(_Ours, Dense):
    """Numbers as they are."""

    few = _FEW_NUMBERS

    def __init__(self, kernels: CudaKernels, weight: Tensor) -> None:
        super().__init__(weight)
        self._kernels = kernels

    def _by_us(self, x: Tensor, factors: Tensor | None) -> Tensor:
        return self._kernels.multiply("numbers", x, self.weight, None, factors)

    def _by_torch(self, x: Tensor) -> Tensor:
        return Dense.__call__(self, x)


class CudaPacked(_Ours):
    """Bytes or nibbles, as `quantize` makes them."""

    few = _FEW_PACKED

    def __init__(self, kernels: CudaKernels, tensors: dict[str, Tensor]) -> None:
        """``tensors`` are what `quantize.quantize` returns."""
        self._kernels = kernels
        self._packing: Packing = "int8" if "int8" in tensors else "int4"
        self._weight = tensors[self._packing]
        # Of nibbles, a row's scales side by side, as a row is read.
        scales = tensors["scales"]
        self._scales = scales if scales.ndim == 1 else scales.transpose(0, 1).contiguous()

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self._weight.nbytes + self._scales.nbytes

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns rows of bytes, which a table of embeddings always has."""
        return Int8(self._weight, self._scales).embed(ids, dtype)

    def _by_us(self, x: Tensor, factors: Tensor | None) -> Tensor:
        return self._kernels.multiply(self._packing, x, self._weight, self._scales, factors)

    def _by_torch(self, x: Tensor) -> Tensor:
        if self._packing == "int8":
            return Int8(self._weight, self._scales).unpacked(x)
        return functional.linear(x, self._unpacked(x.dtype))

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        """Returns ``[num_outputs, num_inputs]``."""
        pairs = torch.stack([self._weight >> 4, self._weight & 15], dim=-1)
        groups = pairs.view(len(pairs), -1, GROUP).to(dtype).sub_(8)
        scales, zeros = self._scales.to(dtype)[..., None].unbind(-2)
        return groups.mul_(scales).add_(zeros).flatten(1)


def _fits(x: Tensor) -> bool:
    """Whether rows can be read 16 bytes at a time."""
    return not (
        x.shape[1] * x.itemsize % _ALIGNED_BYTES
        or x.stride(0) * x.itemsize % _ALIGNED_BYTES
        or x.data_ptr() % _ALIGNED_BYTES
    )
