"""Our own CUDA kernels, see ``kernels.cu``: compiled at the first start on a GPU, and kept for the next.

As torch's own operations, a decode step of Gemma 3n is some 1,400 kernels of which most do next to nothing,
and weights of few bits are read at a fraction of what memory allows.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import structlog
import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from . import nvrtc
from .quantized_files import sync

SOURCE = Path(__file__).with_name("kernels.cu")

# As many tokens as are multiplied at once.
TOKENS_AT_ONCE = (8, 4, 2, 1)
_MULTIPLYING_WARPS, _ROWS_OF_A_WARP = 4, 2
_ATTENDING_WARPS = 4
# A part of fewer keys costs as much; more parts are slow to put together.
_KEYS_OF_A_PART = 32
_FEWEST_PARTS, _MOST_PARTS = 8, 32
_MOST_SLOTS, _MOST_KV_HEADS, _LARGEST_GROUP = 64, 8, 8
_MOST_ROTATED, _LARGEST_HIDDEN_SIZE, _LARGEST_HEAD = 32, 8192, 256
_FLOAT_BYTES = 4

Packing = Literal["numbers", "int8", "int4"]

log = structlog.get_logger(__name__)


def options(dtype: torch.dtype, group: int) -> list[str]:
    """Returns what the source is compiled with; ``group`` is how many queries share a key."""
    values = {
        "BFLOAT16": int(dtype == torch.bfloat16),
        "GROUP": group,
        "MULTIPLYING_WARPS": _MULTIPLYING_WARPS,
        "ROWS_OF_A_WARP": _ROWS_OF_A_WARP,
        "ATTENDING_WARPS": _ATTENDING_WARPS,
        "MOST_PARTS": _MOST_PARTS,
    }
    return [f"--define-macro={name}={value}" for name, value in values.items()]


class CudaKernels:
    """The kernels, for one model on the current GPU."""

    def __init__(self, config: Gemma3nTextConfig, dtype: torch.dtype, cache_dir: Path | None) -> None:
        """Raises nvrtc.CudaError or OSError where they cannot be compiled."""
        group = config.num_attention_heads // config.num_key_value_heads
        module = _module(options(dtype, group), cache_dir)
        self._eps: float = config.rms_norm_eps
        self._hidden_size: int = config.hidden_size
        self._rotate, self._attend, self._activate = map(module.kernel, ("rotate", "attend", "activate"))
        self._predict, self._join, self._correct, self._spread = (
            module.kernel(name, config.hidden_size * _FLOAT_BYTES)
            for name in ("predict", "join", "correct", "spread")
        )
        self._multiply = {
            (packing, num_tokens): module.kernel(f"multiply_{packing}_{num_tokens}")
            for packing in ("numbers", "int8", "int4")
            for num_tokens in TOKENS_AT_ONCE
        }
        self._ended = torch.zeros(_MOST_SLOTS * _MOST_KV_HEADS, dtype=torch.int32, device="cuda")
        # Of each token's row, two numbers to a thread.
        self._threads = min(1024, -(-config.hidden_size // 64) * 32)

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
        self._of_tokens(self._spread, rows, added, norm)

    def activate(self, gate_and_up: Tensor, cutoff: float | None) -> Tensor:
        """Returns ``[num_tokens, size]`` of ``[num_tokens, 2 * size]``."""
        num_tokens, size = len(gate_and_up), gate_and_up.shape[1] // 2
        out = gate_and_up.new_empty(num_tokens, size)
        threads = 256 if cutoff is None else 1024
        parts = -(-size // (4 * threads)) if cutoff is None else 1
        arguments = (gate_and_up, out, size, cutoff or 0.0, int(cutoff is not None))
        self._activate((num_tokens, parts, 1), (threads, 1, 1), *arguments)
        return out

    def rotate(
        self,
        projected: Tensor,
        norm: Tensor,
        tables: tuple[Tensor, Tensor],
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
        queries = projected.new_empty(num_tokens, num_heads, head_dim)
        arguments = (
            *(projected, projected.stride(0), norm, head_dim if norm.ndim > 1 else 0, *tables),
            *(tables[0].shape[1], slot_ids, positions, num_tokens // len(slot_ids), queries, cache),
            *(cache.shape[1], num_heads, num_kv_heads, head_dim, self._eps),
        )
        self._rotate((num_tokens, 1, 1), (32 * num_rotated, 1, 1), *arguments)
        return queries

    def attend(
        self,
        queries: Tensor,
        cache: Tensor,
        slot_ids: Tensor,
        positions: Tensor,
        window: int | None,
        longest: int,
    ) -> Tensor:
        """Returns ``[batch, num_heads * head_dim]``: what one query of each slot sees."""
        batch, num_heads, head_dim = queries.shape
        num_kv_heads = cache.shape[3]
        # As many for any length up to a power of two, so that a recorded step adds up as any other does.
        most_seen = 1 << (min(longest, window or longest) - 1).bit_length()
        num_parts = min(_MOST_PARTS, max(_FEWEST_PARTS, most_seen // _KEYS_OF_A_PART))
        parts = queries.new_empty(batch * num_heads * num_parts * (head_dim + 2), dtype=torch.float32)
        seen = queries.new_empty(batch, num_heads * head_dim)
        arguments = (
            *(queries, cache, slot_ids, positions, cache.shape[1], window or 0, parts, self._ended, seen),
            *(num_kv_heads, head_dim),
        )
        shared_bytes = _ATTENDING_WARPS * (num_heads // num_kv_heads) * head_dim * _FLOAT_BYTES
        self._attend(
            (num_parts, num_kv_heads, batch),
            (32 * _ATTENDING_WARPS, 1, 1),
            *arguments,
            shared_bytes=shared_bytes,
        )
        return seen

    def multiply(
        self,
        packing: Packing,
        x: Tensor,
        weight: Tensor,
        scales: Tensor | None,
        factors: Tensor | None = None,
    ) -> Tensor:
        """Returns ``[num_tokens, num_outputs]`` for ``[num_tokens, num_inputs]``, 16 bytes at a time.

        With ``factors`` of the result's shape, it goes through gelu and is multiplied by them.
        """
        num_tokens, num_inputs = x.shape
        out = x.new_empty(num_tokens, len(weight))
        blocks = -(-len(weight) // (_MULTIPLYING_WARPS * _ROWS_OF_A_WARP))
        start = 0
        while start < num_tokens:
            some = next(size for size in TOKENS_AT_ONCE if size <= num_tokens - start)
            self._multiply[packing, some](
                (blocks, 1, 1),
                (32 * _MULTIPLYING_WARPS, 1, 1),
                *(x[start:], x.stride(0), weight, scales, num_inputs, out[start:], len(weight)),
                *((None, 0) if factors is None else (factors[start:], factors.stride(0))),
            )
            start += some
        return out

    def _of_tokens(self, kernel: nvrtc.Kernel, first: Tensor, *others: Tensor) -> None:
        kernel(
            (len(first), 1, 1),
            (self._threads, 1, 1),
            *(first, *others, self._hidden_size, self._eps),
            shared_bytes=self._hidden_size * _FLOAT_BYTES,
        )


def load(config: Gemma3nTextConfig, dtype: torch.dtype, cache_dir: Path | None) -> CudaKernels | None:
    """Returns the kernels, or None where they cannot be had or do not suit the model; a warning says why."""
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
        and config.hidden_size <= _LARGEST_HIDDEN_SIZE
        and config.head_dim % 8 == 0
        and config.head_dim <= _LARGEST_HEAD
        and num_heads + 2 * num_kv_heads <= _MOST_ROTATED
        and num_kv_heads <= _MOST_KV_HEADS
        and num_heads // num_kv_heads <= _LARGEST_GROUP
    )


def _module(given: list[str], cache_dir: Path | None) -> nvrtc.Module:
    """Returns machine code on the current GPU; compiling takes half a minute on a board."""
    source = SOURCE.read_text()
    architecture = nvrtc.architecture()
    made_of = repr((source, architecture, given, torch.version.cuda)).encode()
    name = f"{hashlib.sha256(made_of).hexdigest()[:16]}.cubin"
    file = cache_dir / "kernels" / name if cache_dir else None
    if file and file.exists():
        try:
            return nvrtc.Module(file.read_bytes())
        except (nvrtc.CudaError, OSError) as error:
            log.warning("compiled kernels cannot be read: they are compiled again", reason=str(error))
    image = nvrtc.compiled(source, architecture, given)
    if file:
        _keep(file, image)
    return nvrtc.Module(image)


def _keep(file: Path, image: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(image)
        sync(partial)
        partial.rename(file)
    except OSError as error:
        log.warning("compiled kernels are not kept: the next start compiles them again", reason=str(error))
