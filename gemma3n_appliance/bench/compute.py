"""The text models alone, in this process: prefill and decode, ours and transformers' in turns."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, Gemma3nForCausalLM

from ..model import native
from ..model.cuda_graph import GraphRecorder
from ..model.kv_cache import KVCache
from ..model.parts import TextDecoder
from ..model.static_decoder import Record, StaticDecoder
from ..model.text_weights import Quantization
from . import checkpoints
from .checkpoints import Shape
from .compiled import CompileRecorder
from .report import Row

PROMPT = 512
NUM_STEPS = 24
NUM_FIRST = 16
CPU = torch.device("cpu")
Measure = Literal["prefill", "decode"]


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields, one figure after the other."""
    for shape in (checkpoints.E2B_LIKE, checkpoints.E4B_LIKE):
        models = Models(Ours(checkpoints.at(cache, shape), shape))
        yield models.row(f"prefill of {PROMPT} tokens, {shape}", num_rounds, "prefill")
    shape = checkpoints.MEMORY_BOUND
    for quantization in ("none", "int8", "int4"):
        models = Models(Ours(checkpoints.at(cache, shape), shape, quantization))
        for batch in (1, 2, 4, 8):
            yield models.row(decode_step(batch, shape, quantization), num_rounds, "decode", batch)
    shape = checkpoints.LAUNCH_BOUND
    models = Models(Ours(checkpoints.at(cache, shape), shape))
    yield models.row(decode_step(1, shape), num_rounds, "decode")
    compiled = Ours(models.ours.directory, shape, recorder=CompileRecorder)
    compiled.decode()
    if compiled.gave_up:
        print("compute: nothing is compiled; that takes g++ and Python's headers", file=sys.stderr)
        return
    models = Models(compiled)
    yield models.row(f"{decode_step(1, shape)}, ours compiled", num_rounds, "decode")


@dataclass(frozen=True)
class Timed:
    """How long it took, and the last tokens it found, one of every sequence: both should find the same."""

    seconds: float
    tokens: list[int]


def in_turns(num_rounds: int, runs: Mapping[str, Callable[[], Timed]]) -> dict[str, list[float]]:
    """Returns milliseconds by name; the first round warms up and does not count."""
    rounds = [{name: 1e3 * run().seconds for name, run in runs.items()} for _ in range(num_rounds + 1)]
    return {name: [each[name] for each in rounds[1:]] for name in runs}


def decode_step(batch: int, shape: Shape, quantization: Quantization = "none") -> str:
    """Returns what a row says of it."""
    weights = "" if quantization == "none" else f", {quantization} weights"
    return f"decode step, batch {batch}, {shape}{weights}"


class Ours:
    """Our text model over a checkpoint, on a GPU as it serves there."""

    def __init__(
        self,
        directory: Path,
        shape: Shape,
        quantization: Quantization = "none",
        device: torch.device = CPU,
        prompt_length: int = PROMPT,
        recorder: Callable[[], Record] | None = None,
    ) -> None:
        self.directory, self.shape, self.quantization, self.device = directory, shape, quantization, device
        self.config = AutoConfig.from_pretrained(directory, local_files_only=True)
        parts = native.load(directory, self.config, getattr(torch, shape.dtype), device, quantization)
        self.num_weight_bytes = parts.num_weight_bytes
        self._decoder: TextDecoder = parts.decoder
        if device.type == "cuda":
            recorder = GraphRecorder
        if recorder:
            self._decoder = StaticDecoder(parts.decoder, recorder)
        self._caches: dict[int, KVCache] = {}
        generator = torch.Generator().manual_seed(1)
        shape_of_ids = (8, prompt_length)
        self.ids = torch.randint(0, checkpoints.VOCAB_SIZE, shape_of_ids, generator=generator).tolist()

    @property
    def gave_up(self) -> bool:
        """Whether decode steps were to be replayed, and are not."""
        return isinstance(self._decoder, StaticDecoder) and self._decoder.gave_up

    @torch.inference_mode()
    def prefill(self, _batch: int = 1) -> Timed:
        """Until the first token of one prompt is known."""
        cache = self._cache(1)
        began = time.perf_counter()
        tokens = self._step(cache, [0], [self.ids[0]])
        return Timed(time.perf_counter() - began, tokens)

    @torch.inference_mode()
    def decode(self, batch: int = 1) -> Timed:
        """The median step."""
        cache = self._cache(batch)
        tokens = [self._step(cache, [slot], [self.ids[slot][:NUM_FIRST]])[0] for slot in range(batch)]
        seconds = []
        for _ in range(NUM_STEPS):
            began = time.perf_counter()
            tokens = self._step(cache, list(range(batch)), [[token] for token in tokens])
            seconds.append(time.perf_counter() - began)
        return Timed(statistics.median(seconds), tokens)

    def _step(self, cache: KVCache, slots: list[int], ids: list[list[int]]) -> list[int]:
        step = cache.step(slots, len(ids[0]))
        if step.num_new > 1:
            logits = self._decoder.logits(self._decoder.forward(self._decoder.embed(ids), step))
        else:
            logits = self._decoder.decode([token_id for (token_id,) in ids], step)
        step.commit()
        return logits.argmax(dim=-1).tolist()

    def _cache(self, num_slots: int) -> KVCache:
        """Returns an empty one, always in the same place: steps are recorded over it."""
        if num_slots not in self._caches:
            context = 2 * len(self.ids[0])
            cache = KVCache(self.config, num_slots, context, self._decoder.device, self._decoder.dtype)
            cache.reserve(context)
            self._caches[num_slots] = cache
        for slot in range(num_slots):
            self._caches[num_slots].clear(slot)
        return self._caches[num_slots]


class Models:
    """One checkpoint, loaded by us and by transformers; where ours is quantised, by it in two dtypes."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        # A GPU has no use for float32, and no room for it.
        both = ours.quantization != "none" and ours.device == CPU
        self._theirs = {
            name: Gemma3nForCausalLM.from_pretrained(
                ours.directory, dtype=getattr(torch, name), local_files_only=True
            )
            .eval()
            .to(ours.device)
            for name in (["float32", "bfloat16"] if both else [ours.shape.dtype])
        }

    def row(self, what: str, num_rounds: int, measure: Measure, batch: int = 1) -> Row:
        """Runs all in turns, and keeps the better of theirs.

        Raises:
            RuntimeError: ours did not compute as it was to.
        """
        ours, theirs = getattr(self.ours, measure), getattr(self, f"their_{measure}")
        runs = {"ours": partial(ours, batch)} | {name: partial(theirs, batch, name) for name in self._theirs}
        in_ms = in_turns(num_rounds, runs)
        if self.ours.gave_up:
            raise RuntimeError(f"{what}: our decode steps were not replayed, the log above says why")
        best = min(self._theirs, key=lambda name: statistics.median(in_ms[name]))
        return Row(what, "ms", in_ms["ours"], in_ms[best], f"transformers' forward, {best}")

    @torch.inference_mode()
    def their_prefill(self, _batch: int, dtype: str) -> Timed:
        """Until the first token of one prompt is known."""
        began = time.perf_counter()
        logits = self._theirs[dtype](
            torch.tensor(self.ours.ids[:1], device=self.ours.device), use_cache=True, logits_to_keep=1
        ).logits
        tokens = logits[:, -1].argmax(dim=-1).tolist()
        return Timed(time.perf_counter() - began, tokens)

    @torch.inference_mode()
    def their_decode(self, batch: int, dtype: str) -> Timed:
        """The median step."""
        model = self._theirs[dtype]
        first = torch.tensor([ids[:NUM_FIRST] for ids in self.ours.ids[:batch]], device=self.ours.device)
        output = model(first, use_cache=True, logits_to_keep=1)
        tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        seconds = []
        for _ in range(NUM_STEPS):
            began = time.perf_counter()
            output = model(tokens, past_key_values=output.past_key_values, use_cache=True)
            tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            found = tokens.flatten().tolist()
            seconds.append(time.perf_counter() - began)
        return Timed(statistics.median(seconds), found)
