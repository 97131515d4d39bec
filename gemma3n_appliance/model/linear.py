"""What a layer multiplies by: numbers as they are, bytes, or nibbles that a kernel unpacks as it reads them.

A decode step costs what it reads: half of that in bytes, a third in nibbles. The kernels are torch's own,
which a board has without a compiler; they are given bfloat16, whatever the model computes in.
"""

import platform
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 32
# On a CPU, torch multiplies float32 by MKL, which takes up to three times as long as oneDNN for few rows and
# large weights, on an AMD EPYC at least: of one row, it works with one thread.
_FEW_ROWS = 32
_MANY_WEIGHTS = 1 << 18
# Arm's was not measured, and a Jetson's CPU multiplies next to nothing.
_HAS_QUICK_ONEDNN = platform.machine() == "x86_64" and torch.backends.mkldnn.is_available()
# For more tokens than that, unpacking bytes once and multiplying as usual is quicker, on a CPU at least.
# Nibbles stay packed: in the kernel's order, only the kernel reads them.
_FEW_TOKENS = 64
# The tallest tile of weights that still divides them, so much the GPU's kernel takes at once.
_TILES = (8, 4, 2)
_TILE_INPUTS = 16


class Weights(Protocol):
    """A model's tensors, or those of a part of it, by their names there."""

    def __call__(self, name: str) -> Tensor:
        """Returns a tensor."""
        ...

    def linear(self, name: str, make: Callable[[], Tensor], *, fine: bool = False) -> "Linear":
        """Returns what ``make`` makes of tensors, to multiply by; a ``fine`` one has eight bits at least."""
        ...

    def within(self, prefix: str) -> "Weights":
        """Returns the tensors whose names begin like that."""
        ...


class Linear(Protocol):
    """A weight ``[num_outputs, num_inputs]``."""

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``[num_tokens, num_outputs]`` for ``[num_tokens, num_inputs]``, in the dtype of ``x``."""
        ...


class TiedLinear(Linear, Protocol):
    """One whose rows are embeddings, too."""

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns ``[*ids, num_inputs]``: the rows."""
        ...


class Dense:
    """Numbers as they are."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies."""
        if len(x) <= _FEW_ROWS and self._is_quicker_by_onednn():
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return functional.linear(x, self.weight)

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns rows."""
        return functional.embedding(ids, self.weight).to(dtype)

    def _is_quicker_by_onednn(self) -> bool:
        weight = self.weight
        return (
            weight.dtype == torch.float32
            and weight.is_cpu
            and _HAS_QUICK_ONEDNN
            and weight.numel() >= _MANY_WEIGHTS
            and weight.is_contiguous()
        )


class Int8:
    """Bytes ``[num_outputs, num_inputs]`` and a bfloat16 scale for every row."""

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        self._weight = weight
        self._scales = scales

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self._weight.device

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self._weight.nbytes + self._scales.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies."""
        if len(x) > _FEW_TOKENS:
            return self.unpacked(x)
        few = x.to(torch.bfloat16).contiguous()
        return torch._weight_int8pack_mm(few, self._weight, self._scales).to(x.dtype)

    def unpacked(self, x: Tensor) -> Tensor:
        """Multiplies as usual, by bytes that are made numbers of for that."""
        return functional.linear(x, self._weight.to(x.dtype)) * self._scales.to(x.dtype)

    def of(self, outputs: Tensor) -> "Int8":
        """Returns what gives these of the outputs alone."""
        return Int8(self._weight.index_select(0, outputs), self._scales.index_select(0, outputs))

    def halves(self) -> tuple["Int8", "Int8"]:
        """Returns what gives the first half of the outputs, and what gives the second; neither is a copy."""
        first, second = zip(self._weight.chunk(2), self._scales.chunk(2), strict=True)
        return Int8(*first), Int8(*second)

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns rows."""
        rows = functional.embedding(ids, self._weight).to(dtype)
        return rows * self._scales[ids].to(dtype)[..., None]


class Int4:
    """Nibbles, and for every `GROUP` of them in a row a bfloat16 scale, and what an 8 stands for."""

    def __init__(self, nibbles: Tensor, scales_and_zeros: Tensor) -> None:
        """``nibbles`` is uint8 ``[num_outputs, num_inputs / 2]``, the first of two being the higher.

        ``scales_and_zeros`` is ``[num_inputs / GROUP, num_outputs, 2]``.
        """
        self._packed = _packed(nibbles)
        self._scales_and_zeros = scales_and_zeros
        self._multiply = (
            torch._weight_int4pack_mm_for_cpu if nibbles.device.type == "cpu" else torch._weight_int4pack_mm
        )

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self._packed.nbytes + self._scales_and_zeros.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies."""
        rounded = x.to(torch.bfloat16).contiguous()
        return self._multiply(rounded, self._packed, GROUP, self._scales_and_zeros).to(x.dtype)


def _packed(nibbles: Tensor) -> Tensor:
    """Returns the nibbles in the order in which the device's kernel reads them."""
    if nibbles.device.type == "cpu":
        pairs = torch.stack([nibbles >> 4, nibbles & 15], dim=-1)
        return torch._convert_weight_to_int4pack_for_cpu(pairs.flatten(1).int(), 1)
    num_inputs = 2 * nibbles.shape[1]
    tiles = next(tiles for tiles in _TILES if num_inputs % (tiles * _TILE_INPUTS) == 0)
    return torch._convert_weight_to_int4pack(nibbles, tiles)
