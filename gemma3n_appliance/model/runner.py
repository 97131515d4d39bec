"""Runs a text model over slots: prompts in chunks, then one token after the other, for all slots at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.grammar import wait_for_any
from ..engine.request import GenerationRequest
from ..engine.runner import Admission, Logprobs
from ..errors import ContextLengthError, InvalidRequestError
from . import soft_tokens
from .embeddings import Embeddings
from .kv_cache import CacheStep, KVCache
from .media_cache import MediaCache, require_numbers
from .memory import named_when_exhausted
from .pace import Pace
from .parts import Parts
from .prefix_cache import PrefixCache
from .sampler import Chooser, Sample, Scores, sample

# Where everyone waits for a grammar: not longer at a time, because somebody may hang up meanwhile.
_MASK_WAIT_S = 0.05


@dataclass
class _Work:
    """What a slot is busy with."""

    request: GenerationRequest
    media: list[soft_tokens.SoftTokens]
    chooser: Chooser
    last_token: int = -1
    logprobs: Logprobs | None = None
    # What to choose the next token from, as soon as its grammar says which may be.
    undecided: Tensor | None = None
    has_failed: bool = False


class SlotRunner:
    """Implements `engine.runner.Runner`."""

    def __init__(
        self,
        parts: Parts,
        cache: KVCache,
        sample: Sample = sample,
    ) -> None:
        """``sample`` can be replaced to look at logits."""
        self._decoder = parts.decoder
        self._encoder = parts.encoder
        self._media = MediaCache(parts.encoder) if parts.encoder else None
        self._cache = cache
        self._prefixes = PrefixCache(cache)
        self._pace = Pace(cache.device)
        self._sample = sample
        self._work: dict[int, _Work] = {}

    @property
    def num_slots(self) -> int:
        """See `Runner`."""
        return len(self._cache.lengths)

    @property
    def max_context(self) -> int:
        """See `Runner`."""
        return self._cache.max_context

    @torch.inference_mode()
    def begin(self, free: Sequence[int], request: GenerationRequest) -> Admission:
        """Takes a slot and all the cache the request can come to need, so that it cannot fail midway for it.

        Of what is in the slots, the request keeps what its prompt begins with.

        Raises:
            InvalidRequestError: ids out of the vocabulary, or media that do not fit the prompt.
            ContextLengthError: more tokens than the context holds.
            InsufficientMemoryError: the cache cannot grow that far.
        """
        self._check(request)
        media = soft_tokens.place(request.token_ids, request.media, self._encoder) if self._encoder else []
        with named_when_exhausted("this request's context"):
            self._cache.reserve(len(request.token_ids) + request.max_tokens)
        slot, num_cached = self._prefixes.take(free, soft_tokens.ids(request.token_ids, media))
        self._work[slot] = _Work(request, media, Chooser.of(request))
        return Admission(slot, num_cached)

    @torch.inference_mode()
    def prefill(self, slot: int, max_tokens: int) -> int | None:
        """Runs a chunk of the prompt, encoding the pictures and clips that start in it.

        Raises:
            InsufficientMemoryError: the chunk, or a picture in it, does not fit into memory.
            EngineError: the model computed no numbers; broken media or weights can do that.
        """
        work = self._work[slot]
        start = self._cache.lengths[slot]
        token_ids = work.request.token_ids[start : start + max_tokens]
        is_last = start + len(token_ids) == len(work.request.token_ids)
        with self._noting_failure([slot]), named_when_exhausted("this prompt"):
            embeddings = self._embed_prompt(work, token_ids, start)
            step = self._cache.step([slot], len(token_ids))
            if not is_last:
                self._decoder.remember(embeddings, step)
                self._pace.queued()
                step.commit()
                return None
            last_state = self._decoder.forward(embeddings, step)
            step.commit()
            return self._choose([slot], self._capped(self._decoder.logits(last_state)))[0]

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> list[int | None]:
        """See `Runner`.

        Raises:
            InsufficientMemoryError: the step does not fit.
            EngineError: the model computed no numbers for one of the slots.
            GrammarError: one of the slots' grammars gave up.
        """
        for slot in slots:
            self._work[slot].chooser.may_choose()  # who cannot go on says so before anything is computed
        fed = [slot for slot in slots if self._work[slot].undecided is None]
        held = [slot for slot in slots if slot not in fed]
        last_tokens = [self._work[slot].last_token for slot in fed]
        with self._noting_failure(slots), named_when_exhausted("so many requests at once"):
            step = self._cache.step(fed, 1) if fed else None
            logits = self._next_logits(last_tokens, step, held)
            decidable = self._decidable(fed + held)
            undecided = {slot: logits[row].clone() for row, slot in enumerate(fed) if slot not in decidable}
            chosen = self._choose_of(decidable, fed + held, logits)
        for slot, token_id in zip(fed, last_tokens, strict=True):
            self._prefixes.append(slot, token_id)
        if step:
            step.commit()
        for slot in decidable:
            self._work[slot].undecided = None
        for slot, row in undecided.items():
            self._work[slot].undecided = row
        return [chosen.get(slot) for slot in slots]

    def logprobs(self, slot: int) -> Logprobs | None:
        """See `Runner`."""
        return self._work[slot].logprobs

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """See `Runner`. What the slot has computed stays, for prompts that begin alike."""
        work = self._work.pop(slot, None)
        if work is not None and work.has_failed:
            self._cache.clear(slot)

    @contextmanager
    def _noting_failure(self, slots: Sequence[int]) -> Iterator[None]:
        """A slot whose own step fails may hold NaN; one whose batch fails is tried again alone."""
        try:
            yield
        except BaseException:
            if len(slots) == 1:
                self._work[slots[0]].has_failed = True
            raise

    def _check(self, request: GenerationRequest) -> None:
        # On CUDA an index outside its table does not raise: it ends every request of the process.
        num_tokens = len(request.token_ids) + request.max_tokens
        if num_tokens > self.max_context:
            raise ContextLengthError(f"{num_tokens} tokens do not fit the context of {self.max_context}.")
        vocab_size = self._decoder.config.vocab_size
        if not request.token_ids or not 0 <= min(request.token_ids) <= max(request.token_ids) < vocab_size:
            raise InvalidRequestError(
                f"A prompt needs at least one token; ids go from 0 to {vocab_size - 1}."
            )
        if any(not 0 <= token_id < vocab_size for token_id, _ in request.sampling.logit_bias):
            raise InvalidRequestError(
                f"There is no such token: ids go from 0 to {vocab_size - 1}.", param="logit_bias"
            )
        if request.media and self._encoder is None:
            raise InvalidRequestError("This model was loaded for text only: send no images and no audio.")

    def _embed_prompt(self, work: _Work, token_ids: Sequence[int], start: int) -> Embeddings:
        embeddings = self._decoder.embed([token_ids])
        for item in work.media:
            item.splice(embeddings.hidden[0], start, self._media.features)
        return embeddings

    def _capped(self, logits: Tensor) -> Tensor:
        """Returns soft-capped float32 logits ``[batch, vocab_size]``.

        Capped in float32 also where the model runs in bfloat16, whose tanh would merge the best candidates.
        """
        logits = logits.float()
        cap = self._decoder.config.final_logit_softcapping
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        require_numbers(logits)
        return logits

    def _next_logits(self, last_tokens: Sequence[int], step: CacheStep | None, held: Sequence[int]) -> Tensor:
        """Returns the logits of those that are fed their last tokens, and below them those that were held."""
        rows = [self._work[slot].undecided[None] for slot in held]
        if step:
            rows.insert(0, self._capped(self._decoder.decode(last_tokens, step)))
        return torch.cat(rows) if held else rows[0]

    def _decidable(self, slots: Sequence[int]) -> list[int]:
        """Returns the slots that know what there is to choose from; waits where nobody has more to do."""
        choosers = {slot: self._work[slot].chooser for slot in slots}
        is_reading = any(work.last_token < 0 for work in self._work.values())
        if not is_reading and not any(chooser.may_choose() for chooser in choosers.values()):
            wait_for_any([chooser.guide for chooser in choosers.values()], _MASK_WAIT_S)
        return [slot for slot, chooser in choosers.items() if chooser.may_choose()]

    def _choose_of(self, decidable: Sequence[int], slots: Sequence[int], logits: Tensor) -> dict[int, int]:
        """Chooses for the decidable of the slots, whose logits these are."""
        if not decidable:
            return {}
        rows = [row for row, slot in enumerate(slots) if slot in decidable]
        chosen = self._choose(decidable, logits if len(rows) == len(slots) else logits[rows])
        return dict(zip(decidable, chosen, strict=True))

    def _choose(self, slots: Sequence[int], logits: Tensor) -> list[int]:
        works = [self._work[slot] for slot in slots]
        nums_top = [(row, work.request.num_top_logprobs) for row, work in enumerate(works)]
        asked = {row: num_top for row, num_top in nums_top if num_top is not None}
        scores = Scores(logits[[*asked]], [*asked.values()]) if asked else None
        chosen = self._sample(logits, [work.chooser for work in works])
        if scores:
            told = scores.of([chosen[row] for row in asked])
            for row, logprobs in zip(asked, told, strict=True):
                works[row].logprobs = logprobs
        for work, token_id in zip(works, chosen, strict=True):
            work.last_token = token_id
            work.chooser.note(token_id)
        return chosen
