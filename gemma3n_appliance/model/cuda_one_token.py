"""What one token alone runs through on a GPU, see ``kernels/one_token.cu``: a single user waits for it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from . import cuda_source, nvrtc
from .cuda_weights import ALIGNED_BYTES, PACKINGS, Held


class OneTokenKernels:
    """What one token alone runs through: a layer in seven launches, a sparse one in eight.

    Of the norms of both halves, and of routers, arguments are as `CudaKernels` has them.
    """

    def __init__(self, module: nvrtc.Module, config: Gemma3nTextConfig) -> None:
        self._eps: float = config.rms_norm_eps
        self._hidden_size: int = config.hidden_size
        self._grid = cuda_source.TOKEN_BLOCKS * nvrtc.num_multiprocessors(), 1, 1
        self._block = cuda_source.TOKEN_THREADS, 1, 1
        self._kernels = {
            (name, packing): module.kernel(f"token_{name}_{packing}", overlaps=True)
            for name in ("inputs", "outputs", "gated", "gates", "chosen")
            for packing in PACKINGS
        }
        self._live, self._down_live = (
            module.kernel(name, overlaps=True) for name in ("token_live", "token_down_live")
        )
        self._ended = torch.zeros(config.hidden_size, dtype=torch.int32, device=nvrtc.DEVICE)

    def inputs(
        self,
        rows: Tensor,
        spread_norm: Tensor | None,
        router: Sequence[Tensor],
        norm: Tensor,
        held: Held,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mixed streams, the first of them normed, and what is projected from that.

        With a ``spread_norm``, the fifth row is first added to all streams but the first. ``router`` is
        weight, norm and prediction.
        """
        mixed, looked_at = torch.empty_like(rows), rows.new_empty(1, self._hidden_size)
        projected = rows.new_empty(1, len(held))
        self._run(
            "inputs",
            held,
            *(rows, spread_norm, *router, norm, held.weight, held.scales, mixed, looked_at, projected),
            *(len(held), self._hidden_size, self._eps),
        )
        return mixed, looked_at, projected

    def outputs(self, seen: Tensor, held: Held, narrow: Tensor, laurel: Held) -> tuple[Tensor, Tensor]:
        """Returns what attention and LAuReL found, each as wide as a stream."""
        attended, widened = seen.new_empty(2, 1, self._hidden_size)
        num_inputs, rank = seen.shape[1], narrow.shape[1]
        self._run(
            "outputs",
            held,
            *(seen, held.weight, held.scales, num_inputs, attended),
            *(narrow, laurel.weight, laurel.scales, rank, widened, self._hidden_size),
            num_shared=num_inputs + rank,
        )
        return attended, widened

    def gated(self, found: Sequence[Tensor], norms: Sequence[Tensor], held: Held) -> tuple[Tensor, Tensor]:
        """Returns ``found``, joined, and what goes down of it where no neuron rests.

        ``found`` is what `outputs` returned, the mixed streams, and the first of them normed.
        """
        size = len(held) // 2
        gated, out = found[0].new_empty(1, self._hidden_size), found[0].new_empty(1, size)
        self._run(
            "gated",
            held,
            *(*found, *norms, held.weight, held.scales, gated, None, out, size, self._hidden_size, self._eps),
        )
        return gated, out

    def gates(
        self, found: Sequence[Tensor], norms: Sequence[Tensor], held: Held, num_outputs: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ``found``, joined, the same normed, and the first so many of its products."""
        gated, following = found[0].new_empty(2, 1, self._hidden_size)
        out = gated.new_empty(1, num_outputs)
        self._run(
            "gates",
            held,
            *(*found, *norms, held.weight, held.scales, gated, following, out),
            *(num_outputs, self._hidden_size, self._eps),
        )
        return gated, following, out

    def live(self, x: Tensor, gates: Tensor, ups: Tensor, cutoff: float) -> Tensor:
        """Returns what goes down, ``[1, size]``; of neurons at rest, no row of ``ups`` is read."""
        out = torch.empty_like(gates)
        arguments = (x, gates, ups, out, gates.shape[1], self._hidden_size, cutoff)
        self._live(self._grid, self._block, *arguments)
        return out

    def down_live(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns ``[1, hidden_size]``; of neurons at rest, no row of ``[size, hidden_size]`` is read."""
        size = x.shape[1]
        num_parts = -(-size // cuda_source.NEURONS_OF_A_PART)
        parts = x.new_empty(num_parts, self._hidden_size, dtype=torch.float32)
        out = x.new_empty(1, self._hidden_size)
        columns = 32 * ALIGNED_BYTES // x.itemsize
        self._down_live(
            (-(-self._hidden_size // columns), num_parts, 1),
            (cuda_source.NEURONS_OF_A_PART, 1, 1),
            *(x, weight, out, parts, self._ended, size, self._hidden_size),
        )
        return out

    def chosen(
        self,
        mixed: Tensor,
        gated: Tensor,
        fed: Tensor,
        norm: Tensor,
        router: Sequence[Tensor],
        held: Held,
        factors: Tensor,
        rows: Tensor,
    ) -> Tensor:
        """Writes the corrected streams to ``rows``; returns what the first lets through of ``factors``.

        ``router`` is weight, norm and correction.
        """
        out = rows.new_empty(1, len(held))
        self._run(
            "chosen",
            held,
            *(mixed, gated, fed, norm, *router, held.weight, held.scales, factors, rows, out),
            *(len(held), self._hidden_size, self._eps),
        )
        return out

    def _run(self, name: str, held: Held, *arguments: nvrtc.Argument, num_shared: int | None = None) -> None:
        """Of shared memory, a kernel has what the rows of weights are multiplied by."""
        num_shared = self._hidden_size if num_shared is None else num_shared
        shared_bytes = num_shared * next(each.itemsize for each in arguments if isinstance(each, Tensor))
        self._kernels[name, held.packing](self._grid, self._block, *arguments, shared_bytes=shared_bytes)
