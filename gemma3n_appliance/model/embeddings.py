"""Token ids → what enters the first layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import TiedLinear
from .sending import sent


@dataclass(frozen=True)
class Embeddings:
    """New tokens: ``hidden`` is ``[batch, num_new, hidden_size]``, ``token_ids`` what they were made of.

    The ids stay on the host, where the tables that later layers look them up in are.
    """

    hidden: Tensor
    token_ids: Sequence[Sequence[int]]

    @property
    def flat_ids(self) -> list[int]:
        """The ids, one token after the other."""
        return [token_id for row in self.token_ids for token_id in row]


@dataclass(frozen=True)
class SpecialRange:
    """Ids from ``start`` to ``end`` that a tower embeds: ``[n]`` to ``[n, hidden_size]``."""

    start: int
    end: int
    embed: Callable[[Tensor], Tensor]


class TokenEmbedder:
    """Embeds as Gemma3nModel.forward does, but for the dummy picture and clip it embeds at every step."""

    def __init__(
        self,
        weight: TiedLinear,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        ranges: Sequence[SpecialRange] = (),
    ) -> None:
        """``weight`` is ``[vocab_size, hidden_size]``; ``dtype`` is what the model computes in."""
        self.weight = weight
        self.dtype = dtype
        self.device = device
        self._ranges = ranges
        # Rounded like the weights, as the model was trained with.
        self._scale = torch.tensor(math.sqrt(hidden_size), dtype=dtype).item()

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embeds ``[batch, num_new]`` ids."""
        on_host = torch.tensor(token_ids)
        hidden = self.of_text(sent(on_host, self.device))
        for special in self._ranges:
            inside = (on_host >= special.start) & (on_host < special.end)
            if inside.any():
                embedded = special.embed(sent(on_host[inside], self.device)).to(hidden.dtype)
                places = sent(inside.flatten().nonzero()[:, 0], self.device)
                hidden.view(-1, hidden.shape[-1]).index_copy_(0, places, embedded)
        return Embeddings(hidden, token_ids)

    def of_text(self, ids: Tensor) -> Tensor:
        """Embeds ids that no tower embeds."""
        return self.weight.embed(ids, self.dtype) * self._scale

    def is_text(self, token_ids: Sequence[int]) -> bool:
        """Whether no tower embeds any of them."""
        return not any(
            special.start <= token_id < special.end for special in self._ranges for token_id in token_ids
        )
