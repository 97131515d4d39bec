"""A checkpoint's tensors → what our text model multiplies by."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from . import quantize, text_shapes, towers
from .checkpoint_files import CheckpointFiles, Place
from .cuda_kernels import CudaKernels
from .cuda_layer import CudaDense, CudaPacked
from .linear import Dense, Int4, Int8
from .quantized_files import QuantizedFiles

Packed = Int8 | Int4 | CudaPacked
Quantization = Literal["none", "int8", "int4"]

TABLE = "embed_tokens_per_layer.weight"


class TextWeights:
    """Reads tensors by their names in a text model, into the dtype and to the device it computes in."""

    def __init__(
        self,
        files: CheckpointFiles,
        dtype: torch.dtype,
        device: torch.device,
        quantization: Quantization = "none",
        kept: QuantizedFiles | None = None,
        kernels: CudaKernels | None = None,
    ) -> None:
        """``kept`` is where weights that are quantised are found, or else put, for the next start.

        With ``kernels``, what is to be multiplied by is for them.

        Raises ValueError where ``files`` have no Gemma 3n text model.
        """
        self._files = files
        self._dtype = dtype
        self._device = device
        self._quantization = quantization
        self._kept = kept
        self._kernels = kernels
        tables = [name for name in files if name.endswith(TABLE)]
        towers.require_complete(set() if tables else {TABLE})
        self._prefix = tables[0].removesuffix(TABLE)
        self.num_bytes = 0

    def __call__(self, name: str) -> Tensor:
        """Returns a tensor."""
        tensor = self._files.read(self._prefix + name).to(self._device, self._dtype)
        self.num_bytes += tensor.nbytes
        return tensor

    def linear(self, name: str, make: Callable[[], Tensor], *, fine: bool = False) -> Dense | Packed:
        """Returns the weight that ``make`` makes of tensors, quantised where that is asked for.

        A ``fine`` one has eight bits at least. One in whose shape no kernel multiplies stays as it is.
        """
        num_bytes = self.num_bytes
        tensors = {} if self._quantization == "none" else self._quantized(name, make, fine)
        if tensors:
            made = self._packed({key: tensor.to(self._device) for key, tensor in tensors.items()})
        else:
            made = CudaDense(self._kernels, make()) if self._kernels else Dense(make())
        self.num_bytes = num_bytes + made.num_bytes
        return made

    def _packed(self, tensors: dict[str, Tensor]) -> Packed:
        return CudaPacked(self._kernels, tensors) if self._kernels else quantize.linear(tensors)

    def _quantized(self, name: str, make: Callable[[], Tensor], fine: bool) -> dict[str, Tensor]:
        """Returns what a weight is made of; nothing where it stays as it is."""
        tensors = self._kept.read(name) if self._kept else None
        if tensors is None:
            tensors = self._quantized_now(make(), fine)
            if self._kept:
                self._kept.write(name, tensors)
        return tensors

    def _quantized_now(self, weight: Tensor, fine: bool) -> dict[str, Tensor]:
        bits = self._bits(weight, fine)
        return quantize.quantize(weight, bits) if bits else {}

    def _bits(self, weight: Tensor, fine: bool) -> quantize.Bits | None:
        if self._quantization == "int4" and not fine and quantize.fits(weight, "int4"):
            return "int4"
        return "int8" if quantize.fits(weight, "int8") else None

    def within(self, prefix: str) -> "_Within":
        """Returns the tensors whose names begin like that."""
        return _Within(self, prefix)

    def place(self, name: str) -> Place:
        """Returns where a tensor is, which must be there."""
        place = self._files.place(self._prefix + name)
        if place is None:
            raise KeyError(name)
        return place

    def lacking(self, config: Gemma3nTextConfig) -> set[str]:
        """Returns the names of what a model like that has, and the files have not."""
        return self._files.lacking(self._prefix, text_shapes.of(config))


class _Within:
    def __init__(self, weights: TextWeights, prefix: str) -> None:
        self._weights = weights
        self._prefix = prefix

    def __call__(self, name: str) -> Tensor:
        return self._weights(self._prefix + name)

    def linear(self, name: str, make: Callable[[], Tensor], *, fine: bool = False) -> Dense | Packed:
        return self._weights.linear(self._prefix + name, make, fine=fine)

    def within(self, prefix: str) -> "_Within":
        return _Within(self._weights, self._prefix + prefix)
