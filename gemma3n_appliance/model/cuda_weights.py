"""How our CUDA kernels read weights."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

ALIGNED_BYTES = 16

Packing = Literal["numbers", "int8", "int4"]
PACKINGS: tuple[Packing, ...] = ("numbers", "int8", "int4")


@dataclass(frozen=True)
class Held:
    """A weight as a kernel reads it, and the scales of one that is packed."""

    packing: Packing
    weight: Tensor
    scales: Tensor | None = None

    def __len__(self) -> int:
        """How many outputs it has."""
        return len(self.weight)
