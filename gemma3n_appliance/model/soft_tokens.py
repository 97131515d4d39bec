"""Where in a prompt the soft tokens of its pictures and clips go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from torch import Tensor

from ..engine.request import Media
from ..errors import InvalidRequestError


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

    def splice(self, hidden: Tensor, start: int, encoder: MediaEncoder) -> None:
        """Overwrites its share of ``hidden``, ``[num_new, hidden_size]``, the prompt from ``start`` on."""
        end = start + len(hidden)
        share = [(i, position) for i, position in enumerate(self.positions) if start <= position < end]
        if not share:
            return
        if self._features is None:
            self._features = encoder.encode(self.media)
        sources, targets = zip(*share, strict=True)
        hidden[[target - start for target in targets]] = self._features[list(sources)].to(hidden.dtype)


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
