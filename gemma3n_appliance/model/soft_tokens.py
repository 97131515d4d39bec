"""Where in a prompt the soft tokens of its pictures and clips go."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
from torch import Tensor

from ..engine.request import Image, Media
from ..errors import InvalidRequestError
from .sending import sent


class MediaEncoder(Protocol):
    """What turns media into soft tokens; see `encoders.Encoders`."""

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """The ids that mark a place for media of any kind."""
        ...

    def token_id(self, media: Media) -> int:
        """Returns the id that marks the places of this kind."""
        ...

    def num_soft_tokens(self, media: Media) -> int:
        """Returns how many places one of this kind fills."""
        ...

    def encode(self, media: Media) -> Tensor:
        """Returns ``[num_soft_tokens, hidden_size]`` in the language model's space."""
        ...


@dataclass
class SoftTokens:
    """One picture or clip and the prompt positions it fills, in order; encoded when first needed."""

    media: Media
    positions: list[int]
    _features: Tensor | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """What it is known by."""
        media = self.media
        kind = f"{media.width}x{media.height}" if isinstance(media, Image) else "audio"
        content = media.rgb if isinstance(media, Image) else media.samples
        return hashlib.blake2b(content, key=kind.encode()).digest()

    def splice(self, hidden: Tensor, start: int, encode: Callable[["SoftTokens"], Tensor]) -> None:
        """Overwrites its share of ``hidden``, ``[num_new, hidden_size]``, the prompt from ``start`` on."""
        end = start + len(hidden)
        share = [(i, position) for i, position in enumerate(self.positions) if start <= position < end]
        if not share:
            return
        if self._features is None:
            self._features = encode(self)
        sources, targets = zip(*share, strict=True)
        features = self._features.index_select(0, sent(sources, hidden.device)).to(hidden.dtype)
        hidden.index_copy_(0, sent([target - start for target in targets], hidden.device), features)


def ids(token_ids: Sequence[int], media: Sequence[SoftTokens]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns what tells prompts apart: their ids, and below zero one for each picture and clip."""
    told_apart = np.array(token_ids, dtype=np.int64)
    for item in media:
        told_apart[item.positions] = -1 - int.from_bytes(item.digest[:7], "big")
    return told_apart


def place(token_ids: Sequence[int], media: Sequence[Media], encoder: MediaEncoder) -> list[SoftTokens]:
    """Assigns soft-token positions to media, in order of appearance.

    Raises:
        InvalidRequestError: positions and media do not match, in kind or in number.
    """
    placeholder_ids = encoder.placeholder_ids
    positions = [i for i, token_id in enumerate(token_ids) if token_id in placeholder_ids]
    found = [token_ids[i] for i in positions]
    counts = [encoder.num_soft_tokens(item) for item in media]
    expected = [
        encoder.token_id(item) for item, count in zip(media, counts, strict=True) for _ in range(count)
    ]
    if found != expected:
        raise InvalidRequestError(
            "The images and audio sent do not fit their places in the prompt, in number or in order."
        )
    remaining = iter(positions)
    return [
        SoftTokens(item, list(islice(remaining, count))) for item, count in zip(media, counts, strict=True)
    ]
