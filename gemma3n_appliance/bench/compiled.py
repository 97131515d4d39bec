"""Our decode steps by torch's compiler: what they cost where asking for kernels costs next to nothing.

On a GPU, CUDA graphs do that; here a C++ compiler does, which no board needs.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Computed = TypeVar("Computed")


class CompileRecorder:
    """Records as `GraphRecorder` does, and compiles what was recorded into a few loops."""

    def __call__(self, compute: Callable[[], Computed]) -> Callable[[], Computed]:
        """Returns what does ``compute`` again, from tensors that stay in their places."""
        # Run, not read: the compiler would find every layer's Python to be another, and give up after eight.
        recorded = make_fx(lambda: compute(), {torch.ops.aten.mm.default: _multiply})()
        # It would ask in each step whether a thousand tensors still are what they were.
        options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, "size_asserts": False}
        replay: Callable[[], Computed] = torch.compile(recorded, fullgraph=True, options=options)
        return replay


def _multiply(rows: Tensor, factor: Tensor) -> Tensor:
    """Multiplies a single row in the loops around it: calling torch's kernel takes longer."""
    if len(rows) > 1:
        return NotImplemented
    products = rows.float().transpose(0, 1) * factor.float()
    return products.sum(0, keepdim=True).to(rows.dtype)
