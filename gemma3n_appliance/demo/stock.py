"""Pictures and clips drawn and encoded once, for the language stage to show again and again.

The towers are frozen there: encoding each picture anew would take more time than the decoder does.
"""

import logging
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor

from . import pictures, senses, tones
from .conversations import Media
from .pictures import Picture
from .tones import Clip

log = logging.getLogger(__name__)

NUM_PICTURES = 4_096
NUM_CLIPS = 384
_AT_ONCE = 32


class Stock:
    """Draws from its pictures and clips, and knows their soft tokens."""

    def __init__(
        self, model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, rng: random.Random
    ) -> None:
        self._pictures = [pictures.draw(rng) for _ in range(NUM_PICTURES)]
        self._clips = {
            kind: [tones.make(rng, kind) for _ in range(NUM_CLIPS // len(tones.ANSWERS))]
            for kind in tones.ANSWERS
        }
        # By identity: an array cannot be hashed. Nothing here is ever freed, so no identity comes twice.
        self._soft: dict[int, Tensor] = {}
        log.info("encoding %d pictures and %d clips", NUM_PICTURES, NUM_CLIPS)
        model.eval()
        with torch.no_grad():
            for i in range(0, NUM_PICTURES, _AT_ONCE):
                seen = self._pictures[i : i + _AT_ONCE]
                soft = senses.image_tokens(model, senses.pixel_values(processor, seen))
                self._soft.update(zip(map(id, seen), soft, strict=True))
            for clip in (clip for clips in self._clips.values() for clip in clips):
                self._soft[id(clip)] = _heard(model, processor, clip)
        model.train()
        self.media = Media(
            lambda rng: rng.choice(self._pictures), lambda rng, kind: rng.choice(self._clips[kind])
        )

    def soft_tokens(self, media: Sequence[Picture] | Sequence[Clip]) -> Tensor:
        """Returns the soft tokens ``[media, tokens, hidden]`` of pictures or clips of this stock."""
        return torch.stack([self._soft[id(medium)] for medium in media])


def _heard(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, clip: Clip) -> Tensor:
    """Encodes one clip and fills up to the fixed number of soft tokens with the last audio id's embedding."""
    tokens = senses.audio_tokens(model, senses.mel_frames(processor, [clip]))[0]
    length = model.config.audio_soft_tokens_per_image
    padding = model.model.embed_audio(input_ids=torch.tensor([len(processor.tokenizer) - 1]))
    return torch.cat((tokens, padding.expand(length - len(tokens), -1)))
