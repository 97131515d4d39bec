"""On a GPU: the text models in their published sizes, with random weights, beside what its memory allows."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Gemma3nTextConfig

from ..model.kv_cache import SLIDING
from ..model.text_weights import Quantization
from . import checkpoints
from .checkpoints import Shape
from .compute import Models, Ours
from .report import Row

PROMPT = 2048
BATCHES = (1, 2, 4, 8)
_COPIED_BYTES = 2 * 2**30
_MATMUL_SIZE = 8192
_NUM_TIMES = 10


@dataclass(frozen=True)
class Rates:
    """What a GPU does in a second: bytes read and written, and multiplications and sums of a matmul."""

    bytes_per_s: float
    flops_per_s: float


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields; nothing where torch finds no GPU."""
    if not torch.cuda.is_available():
        print("gpu: nothing is measured, torch finds none", file=sys.stderr)
        return
    rates = Rates(_copied_bytes_per_s(), _multiplied_flops_per_s())
    yield Row("memory, copied from and to", "GB/s", [rates.bytes_per_s / 1e9])
    yield Row(f"matmul of {_MATMUL_SIZE} by {_MATMUL_SIZE}, bfloat16", "TFLOP/s", [rates.flops_per_s / 1e12])
    for shape in (checkpoints.E2B, checkpoints.E4B):
        directory = checkpoints.at(cache, shape)
        for quantization in ("none", "int8", "int4"):
            yield from of(directory, shape, quantization, num_rounds, torch.device("cuda"), rates)


def of(
    directory: Path,
    shape: Shape,
    quantization: Quantization,
    num_rounds: int,
    device: torch.device,
    rates: Rates,
) -> Iterator[Row]:
    """Measures how near a decode step comes to reading all weights once, and prefill to a matmul."""
    models = Models(Ours(directory, shape, quantization, device, PROMPT))
    name = f"{shape.name}, {'bfloat16' if quantization == 'none' else quantization}"
    for batch in BATCHES:
        row = models.row(f"decode step, batch {batch}, {name}", num_rounds, "decode", batch)
        yield row
        if batch == 1:
            shares = [1e5 * models.ours.num_weight_bytes / rates.bytes_per_s / ms for ms in row.ours]
            yield Row(f"of what memory allows, batch 1, {name}", "%", shares)
    row = models.row(f"prefill of {PROMPT} tokens, {name}", num_rounds, "prefill")
    yield row
    shares = [1e5 * prefill_flops(models.ours.config, PROMPT) / rates.flops_per_s / ms for ms in row.ours]
    yield Row(f"of what matmul allows, prefill, {name}", "%", shares)


def prefill_flops(config: Gemma3nTextConfig, num_tokens: int) -> int:
    """Counts multiplications and sums of reading a prompt, but for what its last token takes more.

    All tokens run through the layers below the last that owns keys, and give keys and values to that.
    """
    hidden, width = config.hidden_size, config.hidden_size_per_layer_input
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    num_whole = config.num_hidden_layers - config.num_kv_shared_layers - 1
    of_layers = 2 * hidden * keys
    looked_at = 0
    for index in range(num_whole):
        feed_forward = 3 * hidden * config.intermediate_size[index]
        around = 2 * hidden * (config.laurel_rank + width)
        of_layers += 2 * hidden * (queries + keys) + around + feed_forward
        window = config.sliding_window if config.layer_types[index] == SLIDING else num_tokens
        looked_at += sum(min(position + 1, window) for position in range(num_tokens))
    of_streams = 3 * hidden * hidden
    of_inputs = hidden * num_whole * width
    flops: int = 2 * num_tokens * (of_layers + of_streams + of_inputs) + 4 * queries * looked_at
    return flops


def _copied_bytes_per_s() -> float:
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _seconds(lambda: target.copy_(source))


def _multiplied_flops_per_s() -> float:
    factor = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, dtype=torch.bfloat16, device="cuda")
    product = torch.empty_like(factor)
    return 2 * _MATMUL_SIZE**3 / _seconds(lambda: torch.mm(factor, factor, out=product))


def _seconds(run: Callable[[], object]) -> float:
    """Of one among several; the first warms up."""
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_NUM_TIMES):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / _NUM_TIMES
