"""One request's penalties and biases on the logits of its next token."""

from collections import Counter

import torch
from torch import Tensor

from ..engine.request import GenerationRequest


class Adjustment:
    """Knows what a request's prompt and answer hold so far, which is what its penalties are about."""

    def __init__(self, request: GenerationRequest) -> None:
        self._sampling = request.sampling
        self._seen = {*request.token_ids}
        self._generated: Counter[int] = Counter()

    def note(self, token_id: int) -> None:
        """Says what the answer goes on with."""
        self._seen.add(token_id)
        self._generated[token_id] += 1

    def apply(self, logits: Tensor) -> None:
        """Changes one row, float32 ``[vocab_size]``: penalties first, so that a bias has the last word."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = _ids([*self._seen], logits)
            scores = logits[seen]
            penalty = sampling.repetition_penalty
            logits[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
        if sampling.frequency_penalty or sampling.presence_penalty:
            counts = torch.tensor([*self._generated.values()], dtype=logits.dtype, device=logits.device)
            generated = _ids([*self._generated], logits)
            logits[generated] -= sampling.frequency_penalty * counts + sampling.presence_penalty
        if sampling.logit_bias:
            token_ids, biases = zip(*sampling.logit_bias, strict=True)
            logits[_ids(token_ids, logits)] += torch.tensor(biases, dtype=logits.dtype, device=logits.device)


def _ids(token_ids: list[int] | tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(token_ids, dtype=torch.int64, device=like.device)
