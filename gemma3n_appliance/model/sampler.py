"""Chooses the next token of every row of a batch, each by its own request's rules and random numbers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.grammar import Guide
from ..engine.request import GenerationRequest, Sampling
from ..engine.runner import Logprobs
from .adjustment import Adjustment

_COLDEST = 1e-4  # as good as greedy, and no logit divided by it overflows


@dataclass(frozen=True)
class Chooser:
    """One request's rules, and its own random numbers: one per token, so a batch cannot shift them."""

    sampling: Sampling
    random: random.Random
    adjustment: Adjustment | None
    guide: Guide | None = None

    @classmethod
    def of(cls, request: GenerationRequest) -> "Chooser":
        """Starts from the seed asked for, or from one that the operating system provides."""
        sampling = request.sampling
        adjustment = Adjustment(request) if sampling.is_adjusted else None
        # Python takes -1 for the seed that 1 is.
        seed = None if sampling.seed is None else sampling.seed % 2**64
        guide = request.grammar.begin() if request.grammar else None
        return cls(sampling, random.Random(seed), adjustment, guide)

    def may_choose(self) -> bool:
        """Whether it is known what tokens there are to choose from. Raises what `Guide.allowed` does."""
        return self.guide is None or self.guide.allowed() is not None

    def note(self, token_id: int) -> None:
        """Says what the answer goes on with."""
        if self.adjustment:
            self.adjustment.note(token_id)
        if self.guide:
            self.guide.accept(token_id)


Sample = Callable[[Tensor, Sequence[Chooser]], list[int]]


def sample(logits: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """Returns one token id for each row of float32 ``[batch, vocab_size]``, which stays as it is.

    Every chooser must be one that ``may_choose``.
    """
    logits = _adjusted(logits, choosers)
    greedy = logits.argmax(dim=-1)
    if all(chooser.sampling.temperature == 0 for chooser in choosers):
        return greedy.tolist()
    drawn = _draw(logits, choosers)
    is_greedy = _column([chooser.sampling.temperature == 0 for chooser in choosers], logits)
    return torch.where(is_greedy[:, 0], greedy, drawn).tolist()


class Scores:
    """How likely tokens are: computed before one is drawn, so that a step without memory draws nothing."""

    def __init__(self, logits: Tensor, nums_top: Sequence[int]) -> None:
        """Takes float32 ``[batch, vocab_size]``, and how many of each row's likeliest to tell of."""
        self._scores = logits.log_softmax(dim=-1)
        self._top = self._scores.topk(min(max(nums_top), logits.shape[-1]), dim=-1)
        self._nums_top = nums_top

    def of(self, token_ids: Sequence[int]) -> list[Logprobs]:
        """Returns what is to be told, given each row's token."""
        rows = torch.tensor(token_ids, device=self._scores.device)[:, None]
        chosen = self._scores.gather(1, rows)[:, 0].tolist()
        top = zip(self._top.indices.tolist(), self._top.values.tolist(), self._nums_top, strict=True)
        return [
            Logprobs(logprob, tuple(zip(ids, values, strict=True))[:num_top])
            for logprob, (ids, values, num_top) in zip(chosen, top, strict=True)
        ]


def _adjusted(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """Returns the logits as they are unless a request has rules of its own for them."""
    if any(chooser.adjustment or chooser.guide for chooser in choosers):
        logits = logits.clone()
    for row, chooser in enumerate(choosers):
        if chooser.adjustment:
            chooser.adjustment.apply(logits[row])
        if chooser.guide:
            allowed = chooser.guide.allowed()
            assert allowed is not None, "nobody may choose yet"
            _confine(logits[row], allowed)
    return logits


def _confine(logits: Tensor, allowed: bytes) -> None:
    """Rules out every token of a row but those ``allowed``, as `Guide` has them."""
    octets = torch.frombuffer(bytearray(allowed), dtype=torch.uint8).to(logits.device)
    bits = octets[:, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device) & 1
    logits.masked_fill_(bits.flatten()[: len(logits)] == 0, -torch.inf)


def _draw(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """Inverts the cumulative distribution over the candidates, likeliest first.

    top_k, top_p and min_p all keep the head of that order, so together they are one count of survivors.
    The sort is stable: equal logits, frequent in bfloat16, rank the same in any batch.
    """
    ranked, token_ids = logits.sort(dim=-1, descending=True, stable=True)
    settings = [chooser.sampling for chooser in choosers]
    temperatures = _column([max(each.temperature, _COLDEST) for each in settings], logits)
    probabilities = (ranked / temperatures).softmax(dim=-1)
    cumulative = probabilities.double().cumsum(dim=-1)
    last_kept = _num_kept(probabilities, cumulative, settings) - 1
    luck = _column([chooser.random.random() for chooser in choosers], cumulative)
    rank = torch.searchsorted(cumulative, luck * cumulative.gather(1, last_kept), right=True)
    return token_ids.gather(1, torch.minimum(rank, last_kept))[:, 0]


def _num_kept(probabilities: Tensor, cumulative: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Returns int64 ``[batch, 1]``, at least 1: how many of the ranked candidates survive."""
    vocab_size = probabilities.shape[-1]
    top_k = _column([min(each.top_k or vocab_size, vocab_size) for each in settings], cumulative).long()
    # top_p is a share of what top_k leaves, as in transformers; the one that crosses the border is in.
    nucleus = _column([each.top_p for each in settings], cumulative) * cumulative.gather(1, top_k - 1)
    in_nucleus = cumulative - probabilities < nucleus
    min_p = _column([each.min_p for each in settings], probabilities) * probabilities[:, :1]
    num_likely = (in_nucleus & (probabilities >= min_p)).sum(dim=-1, keepdim=True)
    return torch.minimum(top_k, num_likely).clamp(min=1)


def _column(values: Sequence[float] | Sequence[bool], like: Tensor) -> Tensor:
    """Returns ``[batch, 1]`` on the device of ``like``, in its dtype unless boolean."""
    dtype = torch.bool if isinstance(values[0], bool) else like.dtype
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]
