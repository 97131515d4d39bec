"""Pictures and clips drawn and encoded once, for the language stage to show again and again.

The towers are frozen there: encoding each picture anew would take more time than the decoder does.
"""

import itertools
import logging
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor

from . import pictures, senses, tones
from .conversations import Media
from .pictures import Picture
from .tones import Clip

log = logging.getLogger(__name__)

NUM_PICTURES = 8_192
NUM_CLIPS = 384
_AT_ONCE = 32
_BLANK = Image.new("RGB", (1, 1))


class Stock:
    """Draws from its pictures and clips, and knows their soft tokens."""

    def __init__(
        self, model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, rng: random.Random
    ) -> None:
        # By identity: an array cannot be hashed. Nothing here is ever freed, so no identity comes twice.
        self._soft: dict[int, Tensor] = {}
        log.info("encoding %d pictures and %d clips", NUM_PICTURES, NUM_CLIPS)
        model.eval()
        with torch.no_grad():
            batches = [self._see(model, processor, rng) for _ in range(NUM_PICTURES // _AT_ONCE)]
            self._pictures = list(itertools.chain.from_iterable(batches))
            self._clips = {kind: self._hear(model, processor, rng, kind) for kind in tones.ANSWERS}
        model.train()
        self.media = Media(
            lambda rng: rng.choice(self._pictures), lambda rng, kind: rng.choice(self._clips[kind])
        )

    def soft_tokens(self, media: Sequence[Picture] | Sequence[Clip]) -> Tensor:
        """Returns the soft tokens ``[media, tokens, hidden]`` of pictures or clips of this stock."""
        return torch.stack([self._soft[id(medium)] for medium in media])

    def _see(
        self, model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, rng: random.Random
    ) -> list[Picture]:
        """Draws and encodes pictures, and lets go of their pixels, which would be gigabytes in the end."""
        drawn = [pictures.draw(rng) for _ in range(_AT_ONCE)]
        soft = senses.image_tokens(model, senses.pixel_values(processor, drawn))
        seen = [replace(picture, image=_BLANK) for picture in drawn]
        self._soft.update(zip(map(id, seen), soft, strict=True))
        return seen

    def _hear(
        self,
        model: Gemma3nForConditionalGeneration,
        processor: Gemma3nProcessor,
        rng: random.Random,
        kind: str,
    ) -> list[Clip]:
        clips = [tones.make(rng, kind) for _ in range(NUM_CLIPS // len(tones.ANSWERS))]
        self._soft.update((id(clip), _heard(model, processor, clip)) for clip in clips)
        return clips


def _heard(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, clip: Clip) -> Tensor:
    """Encodes one clip and fills up to the fixed number of soft tokens with the last audio id's embedding."""
    tokens = senses.audio_tokens(model, senses.mel_frames(processor, [clip]))[0]
    length = model.config.audio_soft_tokens_per_image
    padding = model.model.embed_audio(input_ids=torch.tensor([len(processor.tokenizer) - 1]))
    return torch.cat((tokens, padding.expand(length - len(tokens), -1)))
