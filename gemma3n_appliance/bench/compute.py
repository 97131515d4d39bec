"""The text models alone, in this process: prefill and decode, ours and transformers' in turns."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Gemma3nForCausalLM

from ..model import native
from ..model.kv_cache import KVCache
from ..model.parts import TextDecoder
from . import checkpoints
from .checkpoints import Shape
from .report import Row

TRANSFORMERS = "transformers' forward"
PROMPT = 512
NUM_STEPS = 24
NUM_FIRST = 16


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields, one figure after the other."""
    for shape in (checkpoints.E2B_LIKE, checkpoints.E4B_LIKE):
        pair = Pair(checkpoints.at(cache, shape), shape)
        what = f"prefill of {PROMPT} tokens, {shape.dtype}, {shape.name}"
        yield pair.row(what, num_rounds, lambda pair=pair: (pair.our_prefill, pair.their_prefill))
    shape = checkpoints.MEMORY_BOUND
    pair = Pair(checkpoints.at(cache, shape), shape)
    for batch in (1, 2, 4, 8):
        what = f"decode step, batch {batch}, {shape.dtype}, {shape.name}"
        yield pair.row(what, num_rounds, lambda batch=batch: pair.decodes(batch))
    shape = checkpoints.LAUNCH_BOUND
    pair = Pair(checkpoints.at(cache, shape), shape)
    what = f"decode step, batch 1, {shape.dtype}, {shape.name}"
    yield pair.row(what, num_rounds, lambda: pair.decodes(1))


@dataclass(frozen=True)
class Timed:
    """How long it took, and the last tokens it found, one of every sequence: both should find the same."""

    seconds: float
    tokens: list[int]


Run = Callable[[], Timed]


class Pair:
    """One checkpoint, loaded by us and by transformers."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        dtype = getattr(torch, shape.dtype)
        self._theirs = Gemma3nForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True
        ).eval()
        self._config = self._theirs.config
        self._ours: TextDecoder = native.load(directory, self._config, dtype, torch.device("cpu")).decoder
        generator = torch.Generator().manual_seed(1)
        self._ids = torch.randint(0, checkpoints.VOCAB_SIZE, (8, PROMPT), generator=generator).tolist()

    def row(self, what: str, num_rounds: int, runs: Callable[[], tuple[Run, Run]]) -> Row:
        """Runs both in turns; the first round warms up and does not count."""
        ours, theirs = runs()
        seconds = [(ours().seconds, theirs().seconds) for _ in range(num_rounds + 1)][1:]
        in_ms = [[1e3 * second for second in column] for column in zip(*seconds, strict=True)]
        return Row(what, "ms", in_ms[0], in_ms[1], TRANSFORMERS)

    def decodes(self, batch: int) -> tuple[Run, Run]:
        """Returns what measures our median decode step, and theirs."""
        return lambda: self._our_decode(batch), lambda: self._their_decode(batch)

    @torch.inference_mode()
    def our_prefill(self) -> Timed:
        """Until the first token is known."""
        cache = self._cache(1)
        began = time.perf_counter()
        tokens = self._our_step(cache, [0], [self._ids[0]])
        return Timed(time.perf_counter() - began, tokens)

    @torch.inference_mode()
    def their_prefill(self) -> Timed:
        """Until the first token is known."""
        began = time.perf_counter()
        logits = self._theirs(torch.tensor(self._ids[:1]), use_cache=True, logits_to_keep=1).logits
        tokens = logits[:, -1].argmax(dim=-1).tolist()
        return Timed(time.perf_counter() - began, tokens)

    @torch.inference_mode()
    def _our_decode(self, batch: int) -> Timed:
        cache = self._cache(batch)
        tokens = [self._our_step(cache, [slot], [self._ids[slot][:NUM_FIRST]])[0] for slot in range(batch)]
        seconds = []
        for _ in range(NUM_STEPS):
            began = time.perf_counter()
            tokens = self._our_step(cache, list(range(batch)), [[token] for token in tokens])
            seconds.append(time.perf_counter() - began)
        return Timed(statistics.median(seconds), tokens)

    @torch.inference_mode()
    def _their_decode(self, batch: int) -> Timed:
        first = torch.tensor([ids[:NUM_FIRST] for ids in self._ids[:batch]])
        output = self._theirs(first, use_cache=True, logits_to_keep=1)
        tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        seconds = []
        for _ in range(NUM_STEPS):
            began = time.perf_counter()
            output = self._theirs(tokens, past_key_values=output.past_key_values, use_cache=True)
            tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            found = tokens.flatten().tolist()
            seconds.append(time.perf_counter() - began)
        return Timed(statistics.median(seconds), found)

    def _our_step(self, cache: KVCache, slots: list[int], ids: list[list[int]]) -> list[int]:
        step = cache.step(slots, len(ids[0]))
        logits = self._ours.logits(self._ours.forward(self._ours.embed(ids), step))
        step.commit()
        return logits.argmax(dim=-1).tolist()

    def _cache(self, num_slots: int) -> KVCache:
        cache = KVCache(self._config, num_slots, 1024, self._ours.device, self._ours.dtype)
        cache.reserve(1024)
        return cache
