"""What an engine gives the runner: a text model, and what turns media into soft tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from .embeddings import Embeddings
from .kv_cache import CacheStep
from .soft_tokens import MediaEncoder


class TextDecoder(Protocol):
    """A Gemma 3n text model over the slots of a cache."""

    @property
    def config(self) -> Gemma3nTextConfig:
        """Its shape."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        ...

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embeds ``[batch, num_new]`` ids; pictures and clips may then be put in their places."""
        ...

    def forward(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """Runs the new tokens and returns the last position's state ``[batch, hidden_size]``.

        Several tokens at once are those of one slot. They count once the caller commits ``step``.
        """
        ...

    def remember(self, embeddings: Embeddings, step: CacheStep) -> None:
        """Does the same for tokens of a prompt that goes on, whose states nobody will ask for."""
        ...

    def decode(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """Runs one new token of every slot, and returns logits ``[batch, vocab_size]``, not capped.

        The next such step may overwrite them.
        """
        ...

    def logits(self, last_state: Tensor) -> Tensor:
        """Returns logits ``[batch, vocab_size]``, before they are capped."""
        ...


@dataclass(frozen=True)
class Parts:
    """A loaded model. ``encoder`` is None where it is for text alone.

    ``num_weight_bytes`` are in memory; ``num_bytes_left_on_disk`` stay in the checkpoint's file, and in
    memory only as long as there is room.
    """

    decoder: TextDecoder
    encoder: MediaEncoder | None
    num_weight_bytes: int
    num_bytes_left_on_disk: int = 0
