"""Decode steps that are recorded once and replayed: what is left of launching their kernels is one launch.

A step of 35 layers is some 1,400 kernels, and a Jetson's CPU needs longer to launch them than its GPU to run
them. Recorded are steps of a few sizes: a batch is filled up, and looks at a whole power of two of positions.
"""

import math
import time
from collections.abc import Callable, Sequence

import structlog
import torch
from torch import Tensor

from .decoder import Decoder
from .embeddings import Embeddings
from .kv_cache import CacheStep, KVCache
from .memory import is_exhaustion
from .static_step import StaticStep

# Returns logits and the states they are of.
Replay = Callable[[], tuple[Tensor, Tensor]]
# Takes what computes a step from tensors that stay where they are, and returns what does it again.
Record = Callable[[Replay], Replay]

# How far replayed and computed states and logits may be apart: in bfloat16 the order of sums alone is worth
# some per cent, a quarter where weights are random, and a wrong position or slot more than the whole.
_MOST_APART = 0.5
# The first replay repeats what was recorded; a later one shows that it reads what it is given.
_NUM_CHECKED = 2
# Where memory has run out, so long nothing is recorded, which takes more of it, and more time than a step.
_RECORD_AGAIN_S = 60.0
_SHORTEST = 256

log = structlog.get_logger(__name__)


class StaticDecoder:
    """A `Decoder` whose decode steps are replayed; see `parts.TextDecoder`."""

    def __init__(self, decoder: Decoder, recorder: Callable[[], Record]) -> None:
        """``recorder`` makes what records all that is dropped together."""
        self.config = decoder.config
        self.device = decoder.device
        self.dtype = decoder.dtype
        self._decoder = decoder
        self._recorder = recorder
        self._record = recorder()
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._state_of: tuple[KVCache, int] | None = None
        self._logits: Tensor | None = None
        self._no_room_until = -math.inf
        self.gave_up = False

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """See `parts.TextDecoder`."""
        return self._decoder.embed(token_ids)

    def remember(self, embeddings: Embeddings, step: CacheStep) -> None:
        """See `parts.TextDecoder`."""
        self._decoder.remember(embeddings, step)

    def forward(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`."""
        return self._decoder.forward(embeddings, step)

    def logits(self, last_state: Tensor) -> Tensor:
        """See `parts.TextDecoder`."""
        return self._decoder.logits(last_state)

    def decode(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`."""
        if self.gave_up or not self._decoder.is_text(token_ids):
            return self._decoder.decode(token_ids, step)
        self._forget_if_moved(step.cache)
        size = _at_least(len(step.slots), 1), min(_at_least(step.longest, _SHORTEST), step.cache.capacity)
        recorded = self._recorded.get(size)
        if recorded and recorded.num_checked >= _NUM_CHECKED:
            return recorded.run(token_ids, step)
        if time.monotonic() < self._no_room_until:
            return self._decoder.decode(token_ids, step)
        return self._checked(size, token_ids, step)

    def _checked(self, size: tuple[int, int], token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """Computes a step, and records it or replays it, and compares."""
        decoder = self._decoder
        state = decoder.forward(decoder.embed([[token_id] for token_id in token_ids]), step)
        wanted = decoder.logits(state)
        if not wanted.isfinite().all():  # the fault of a request, and nothing to compare with
            return wanted
        try:
            if size not in self._recorded:
                self._recorded[size] = self._recorded_now(size, token_ids, step)
            found = self._recorded[size].run(token_ids, step)
        except RuntimeError as error:
            if is_exhaustion(error):
                self._put_off()
            else:
                self._give_up(str(error))
            return wanted
        recorded = self._recorded[size]
        pairs = (recorded.state[: len(state)], state), (found, wanted)
        apart = [_apart(*pair) for pair in pairs]
        if all(share < _MOST_APART for share in apart):  # which NaN is not
            recorded.num_checked += 1
        else:
            self._give_up(f"a step of {size} came out {apart[0]:.2g} and {apart[1]:.2g} apart")
        return wanted

    def _recorded_now(self, size: tuple[int, int], token_ids: Sequence[int], step: CacheStep) -> "_Recorded":
        began = time.monotonic()
        recorded = _Recorded(self._decoder, step.cache, *size, self._logits_of(step.cache)[: size[0]])
        recorded.record(self._record, token_ids, step)
        log.info("decode step recorded", batch=size[0], length=size[1], seconds=time.monotonic() - began)
        return recorded

    def _logits_of(self, cache: KVCache) -> Tensor:
        """Returns where all recorded steps put their logits, of which each would else keep its own."""
        if self._logits is None:
            shape = _at_least(len(cache.lengths), 1), self.config.vocab_size
            self._logits = torch.empty(shape, device=self.device, dtype=self.dtype)
        return self._logits

    def _give_up(self, reason: str) -> None:
        log.warning(
            "decode steps are not replayed, and answers take longer: set CUDA_GRAPHS=false and restart",
            reason=reason.partition("\n")[0],
        )
        self.gave_up = True
        self._recorded.clear()

    def _put_off(self) -> None:
        log.warning("no memory to record decode steps: they are computed", again_after_s=_RECORD_AGAIN_S)
        self._no_room_until = time.monotonic() + _RECORD_AGAIN_S
        torch.cuda.empty_cache()

    def _forget_if_moved(self, cache: KVCache) -> None:
        """What was recorded reads the cache where it was then."""
        if self._state_of != (cache, cache.generation):
            if self._recorded:
                self._recorded.clear()
                self._record = self._recorder()
            self._state_of = (cache, cache.generation)
            self._logits = None


class _Recorded:
    """Steps of one size, and the tensors they read."""

    def __init__(self, decoder: Decoder, cache: KVCache, batch: int, length: int, logits: Tensor) -> None:
        """``logits`` is where they are put, ``[batch, vocab_size]``."""
        self._decoder, self._cache, self._length, self._logits = decoder, cache, length, logits
        # Of each, the same on the host, whence a GPU fetches it while the host goes on.
        self._rows_on_host = decoder.table_rows([0] * batch)
        self._numbers_on_host = torch.zeros(3, batch, dtype=torch.int64)
        if decoder.device.type == "cuda":
            self._numbers_on_host = self._numbers_on_host.pin_memory()
        self._rows = self._rows_on_host.to(decoder.device, copy=True)
        self._numbers = self._numbers_on_host.to(decoder.device, copy=True)
        self._replay: Replay = self._compute
        self.num_checked = 0

    def record(self, record: Record, token_ids: Sequence[int], step: CacheStep) -> None:
        """Records a step, which writes to the cache what it computes."""
        self._fill(token_ids, step)
        self._replay = record(self._compute)

    def run(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """Returns the logits of ``step``, until the next run overwrites them."""
        self._fill(token_ids, step)
        logits, self.state = self._replay()
        return logits[: len(step.slots)]

    def _compute(self) -> tuple[Tensor, Tensor]:
        ids, slots, positions = self._numbers
        # Made anew, because what it derives of the positions has to be computed in the step.
        step = StaticStep(self._cache, slots, positions[:, None], self._length)
        state = self._decoder.decode_text(ids, self._rows, step)
        return self._logits.copy_(self._decoder.logits(state)), state

    def _fill(self, token_ids: Sequence[int], step: CacheStep) -> None:
        """Puts a step in its place; what is left of the batch repeats the first slot, and changes nothing.

        Whoever ran the step before has read what came of it, so the host's tensors are free.
        """
        given, batch = (token_ids, step.slots, step.starts), len(self._rows)
        numbers = [[*each, *each[:1] * (batch - len(each))] for each in given]
        self._numbers_on_host.copy_(torch.tensor(numbers))
        self._decoder.table_rows(numbers[0], self._rows_on_host)
        self._numbers.copy_(self._numbers_on_host, non_blocking=True)
        self._rows.copy_(self._rows_on_host, non_blocking=True)


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Returns the largest distance between rows, as a share of what is wanted."""
    differences = (found - wanted).float().norm(dim=-1)
    return (differences / wanted.float().norm(dim=-1)).max().item()


def _at_least(number: int, smallest: int) -> int:
    """Returns the next power of two."""
    return max(smallest, 1 << (number - 1).bit_length())
