"""On a GPU: the text models in their published sizes, with random weights, beside what its memory allows."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..model.text_weights import Quantization
from . import checkpoints
from .checkpoints import Shape
from .compute import Models, Ours
from .report import Row

PROMPT = 2048
BATCHES = (1, 2, 4, 8)
_COPIED_BYTES = 2 * 2**30
_NUM_COPIES = 10


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields; nothing where torch finds no GPU."""
    if not torch.cuda.is_available():
        print("gpu: nothing is measured, torch finds none", file=sys.stderr)
        return
    bytes_per_s = _copied_bytes_per_s()
    yield Row("memory, copied from and to", "GB/s", [bytes_per_s / 1e9])
    for shape in (checkpoints.E2B, checkpoints.E4B):
        directory = checkpoints.at(cache, shape)
        for quantization in ("none", "int8", "int4"):
            yield from of(directory, shape, quantization, num_rounds, torch.device("cuda"), bytes_per_s)


def of(
    directory: Path,
    shape: Shape,
    quantization: Quantization,
    num_rounds: int,
    device: torch.device,
    bytes_per_s: float,
) -> Iterator[Row]:
    """Measures one model, and how near its decode steps come to reading all of its weights once."""
    models = Models(Ours(directory, shape, quantization, device, PROMPT))
    name = f"{shape.name}, {'bfloat16' if quantization == 'none' else quantization}"
    for batch in BATCHES:
        row = models.row(f"decode step, batch {batch}, {name}", num_rounds, "decode", batch)
        yield row
        if batch == 1:
            shares = [1e5 * models.ours.num_weight_bytes / bytes_per_s / ms for ms in row.ours]
            yield Row(f"of what memory allows, batch 1, {name}", "%", shares)
    yield models.row(f"prefill of {PROMPT} tokens, {name}", num_rounds, "prefill")


def _copied_bytes_per_s() -> float:
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    for num_copies in (1, _NUM_COPIES):  # the first warms up
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(num_copies):
            target.copy_(source)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2 * _COPIED_BYTES * _NUM_COPIES / seconds
