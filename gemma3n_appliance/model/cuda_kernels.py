"""Our own CUDA kernels, see ``kernels``.

As torch's own operations, a decode step of Gemma 3n is some 1,400 kernels of which most do next to nothing,
and weights of few bits are read at a fraction of what memory allows.
"""

from collections.abc import Sequence
from pathlib import Path

import structlog
import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from . import cuda_source, nvrtc
from .cuda_one_token import OneTokenKernels
from .cuda_source import (
    KEYS_OF_A_PART,
    LARGEST_HEAD,
    MOST_PARTS,
    MULTIPLYING_WARPS,
    NUMBERS_OF_A_THREAD,
    ROWS_OF_A_WARP,
)
from .cuda_weights import PACKINGS, Held
from .kv_cache import CacheStep
from .layer import NUM_ROWS
from .rotation import Rotation
from .static_step import StaticStep

# As many tokens as are multiplied at once.
TOKENS_AT_ONCE = (8, 4, 2, 1)
_FEWEST_PARTS = 8
_MOST_SLOTS, _MOST_KV_HEADS, _LARGEST_GROUP = 64, 8, 8
_MOST_ROTATED = 32

log = structlog.get_logger(__name__)


class CudaKernels:
    """The kernels, for one model on the current GPU."""

    def __init__(self, config: Gemma3nTextConfig, dtype: torch.dtype, cache_dir: Path | None) -> None:
        """Raises nvrtc.CudaError or OSError where they cannot be compiled."""
        group = config.num_attention_heads // config.num_key_value_heads
        module = cuda_source.module(cuda_source.options(dtype, group), cache_dir)
        self._eps: float = config.rms_norm_eps
        self._hidden_size: int = config.hidden_size
        self._rotate, self._activate, self._predict, self._join, self._correct, self._spread = map(
            module.kernel, ("rotate", "activate", "predict", "join", "correct", "spread")
        )
        self._begin, self._end = map(module.kernel, ("begin_streams", "end_streams"))
        self._attend = module.kernel("attend", overlaps=True)
        self._attending_block = 32 * cuda_source.ATTENDING_WARPS, 1, 1
        self._multiply = {
            (packing, num_tokens): module.kernel(f"multiply_{packing}_{num_tokens}", overlaps=True)
            for packing in PACKINGS
            for num_tokens in TOKENS_AT_ONCE
        }
        self._ended = torch.zeros(_MOST_SLOTS * _MOST_KV_HEADS, dtype=torch.int32, device=nvrtc.DEVICE)
        self._threads = -(-config.hidden_size // (32 * NUMBERS_OF_A_THREAD)) * 32
        self.of_one = OneTokenKernels(module, config)

    def begin(self, hidden: Tensor, projected: Tensor, smallest: float) -> Tensor:
        """See `streams.Streams.begin`; no length is taken to be below ``smallest``."""
        rows = hidden.new_empty(len(hidden), NUM_ROWS, self._hidden_size)
        self._of_tokens(self._begin, hidden, projected, rows, smallest)
        return rows

    def end(self, rows: Tensor, others: Tensor, norm: Tensor, smallest: float) -> Tensor:
        """See `streams.Streams.end`; no length is taken to be below ``smallest``."""
        out = rows.new_empty(len(rows), self._hidden_size)
        self._of_tokens(self._end, rows, others, norm, out, smallest)
        return out

    def predict(
        self, rows: Tensor, router: Tensor, router_norm: Tensor, prediction: Tensor, norm: Tensor
    ) -> Tensor:
        """Mixes the streams of ``[num_tokens, 5, hidden_size]``; returns the first, normed."""
        normed = rows.new_empty(len(rows), self._hidden_size)
        self._of_tokens(self._predict, rows, router, router_norm, prediction, norm, normed)
        return normed

    def join(
        self, attended: Tensor, laurel: Tensor, rows: Tensor, normed: Tensor, norms: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns what both found, added to what they looked at, and the same normed.

        ``norms`` are those of attention, of LAuReL and of the feed-forward network's input.
        """
        gated, following = torch.empty_like(attended), torch.empty_like(attended)
        self._of_tokens(self._join, attended, laurel, rows, normed, *norms, gated, following)
        return gated, following

    def correct(self, rows: Tensor, gated: Tensor, fed: Tensor, norm: Tensor, *router: Tensor) -> None:
        """Gives the streams what the layer made of the first; ``router`` is weight, norm and correction."""
        self._of_tokens(self._correct, rows, gated, fed, norm, *router)

    def spread(self, rows: Tensor, added: Tensor, norm: Tensor) -> None:
        """Adds to all streams but the first."""
        self._of_tokens(self._spread, rows, added, added.stride(0), norm)

    def activate(self, gate_and_up: Tensor, cutoff: float | None) -> Tensor:
        """Returns ``[num_tokens, size]`` of ``[num_tokens, 2 * size]``."""
        num_tokens, size = len(gate_and_up), gate_and_up.shape[1] // 2
        out = gate_and_up.new_empty(num_tokens, size)
        threads = min(256 if cutoff is None else 1024, -(-size // 128) * 32)
        parts = -(-size // (4 * threads)) if cutoff is None else 1
        arguments = (gate_and_up, out, size, cutoff or 0.0, int(cutoff is not None))
        self._activate((num_tokens, parts, 1), (threads, 1, 1), *arguments)
        return out

    def rotate(
        self,
        projected: Tensor,
        norm: Tensor,
        rotation: Rotation,
        slot_ids: Tensor,
        positions: Tensor,
        cache: Tensor,
        num_heads: int,
        num_rotated: int,
    ) -> Tensor:
        """Returns queries ``[num_tokens, num_heads, head_dim]``; writes keys and values to the cache.

        The first ``num_rotated`` heads of ``projected`` count.
        """
        num_kv_heads, head_dim = cache.shape[3:]
        num_tokens = len(projected)
        cosines, sines = rotation.of_kind
        queries = projected.new_empty(num_tokens, num_heads, head_dim)
        arguments = (
            *(projected, projected.stride(0), norm, head_dim if norm.ndim > 1 else 0, cosines, sines),
            *(cosines.stride(0), slot_ids, positions, num_tokens // len(slot_ids), queries, cache),
            *(cache.shape[1], num_heads, num_kv_heads, head_dim, self._eps),
        )
        self._rotate((num_tokens, 1, 1), (32 * num_rotated, 1, 1), *arguments)
        return queries

    def attend(
        self,
        projected: Tensor,
        norm: Tensor,
        rotation: Rotation,
        step: CacheStep | StaticStep,
        cache: Tensor,
        num_heads: int,
        window: int | None,
        *,
        owns: bool,
    ) -> Tensor:
        """Returns ``[batch, num_heads * head_dim]``: what one new token of each slot sees.

        Writes its keys and values to the ``cache`` first, where the layer ``owns`` any.
        """
        num_kv_heads, head_dim = cache.shape[3:]
        batch = len(projected)
        cosines, sines = rotation.of_kind
        # As many for any length up to a power of two, so that a recorded step adds up as any other does.
        most_seen = 1 << (min(step.longest, window or step.longest) - 1).bit_length()
        num_parts = min(MOST_PARTS, max(_FEWEST_PARTS, most_seen // KEYS_OF_A_PART))
        num_partial = batch * num_heads * num_parts * (head_dim + 2)
        parts = projected.new_empty(num_partial, dtype=torch.float32)
        seen = projected.new_empty(batch, num_heads * head_dim)
        arguments = (
            *(projected, projected.stride(0), norm, head_dim if norm.ndim > 1 else 0, cosines, sines),
            *(cosines.stride(0), step.slot_ids, step.positions, cache, cache.shape[1], int(owns)),
            *(window or 0, parts, self._ended, seen, num_kv_heads, head_dim, self._eps),
        )
        self._attend((num_parts, num_kv_heads, batch), self._attending_block, *arguments)
        return seen

    def multiply(
        self, x: Tensor, held: Held, factors: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Returns ``[num_tokens, num_outputs]`` for ``[num_tokens, num_inputs]``, 16 bytes at a time.

        With ``factors`` of the result's shape, it goes through gelu and is multiplied by them.
        """
        num_tokens, num_inputs = x.shape
        out = x.new_empty(num_tokens, len(held)) if out is None else out
        blocks = -(-len(held) // (MULTIPLYING_WARPS * ROWS_OF_A_WARP))
        start = 0
        while start < num_tokens:
            some = next(size for size in TOKENS_AT_ONCE if size <= num_tokens - start)
            self._multiply[held.packing, some](
                (blocks, 1, 1),
                (32 * MULTIPLYING_WARPS, 1, 1),
                *(x[start:], x.stride(0), held.weight, held.scales, num_inputs, out[start:], len(held)),
                *((None, 0) if factors is None else (factors[start:], factors.stride(0))),
            )
            start += some
        return out

    def _of_tokens(self, kernel: nvrtc.Kernel, first: Tensor, *others: nvrtc.Argument) -> None:
        arguments = (first, *others, self._hidden_size, self._eps)
        kernel((len(first), 1, 1), (self._threads, 1, 1), *arguments)


def load(
    config: Gemma3nTextConfig, dtype: torch.dtype, device: torch.device, cache_dir: Path | None
) -> CudaKernels | None:
    """Returns the kernels, or None: on a CPU, and where a warning says that they cannot be had."""
    if device.type != "cuda":
        return None
    if not _suits(config):
        log.warning("torch's kernels are used: ours do not suit this model's shape")
        return None
    try:
        return CudaKernels(config, dtype, cache_dir)
    except (nvrtc.CudaError, OSError) as error:
        log.warning("torch's kernels are used, and answers take longer", reason=str(error)[:500])
        return None


def _suits(config: Gemma3nTextConfig) -> bool:
    """Whether launches fit, and rows can be read four numbers at a time."""
    num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
    # Published configurations have a size for every layer.
    of_layers = config.intermediate_size
    sizes = [config.hidden_size, *(of_layers if isinstance(of_layers, list) else [of_layers])]
    return (
        all(size % 4 == 0 for size in sizes)
        and config.hidden_size <= NUMBERS_OF_A_THREAD * cuda_source.TOKEN_THREADS
        and config.head_dim % 16 == 0
        and config.laurel_rank % 4 == 0
        and config.head_dim <= LARGEST_HEAD
        and num_heads + 2 * num_kv_heads <= _MOST_ROTATED
        and num_kv_heads <= _MOST_KV_HEADS
        and num_heads // num_kv_heads <= _LARGEST_GROUP
    )
