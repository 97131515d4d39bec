"""First stage of training: the vision and audio towers learn to see and hear before anyone talks to them.

Each tower is trained with its projection into the language model's space, read by a throw-away head
that attends over the soft tokens as the decoder will. Starting the towers apart from the decoder
takes minutes where training everything at once takes hours on two cores.
"""

import logging
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor

from . import pictures, tones

log = logging.getLogger(__name__)

LEARNING_RATE = 8e-4

Batch = tuple[Tensor, list[Tensor]]


class Head(nn.Module):
    """Reads soft tokens ``[batch, tokens, hidden]`` by attention and answers several questions on them."""

    def __init__(self, hidden_size: int, num_answers: tuple[int, ...]) -> None:
        super().__init__()
        self.scores = nn.Linear(hidden_size, 4)
        self.answers = nn.ModuleList(nn.Linear(4 * hidden_size, n) for n in num_answers)

    def forward(self, soft_tokens: Tensor) -> list[Tensor]:
        """Returns the logits of each question, ``[batch, answers]``."""
        weights = (4 * self.scores(soft_tokens)).softmax(dim=1)
        read = torch.einsum("bth,btk->bkh", soft_tokens, weights).flatten(1)
        return [answer(read) for answer in self.answers]


def train_vision(
    model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, rng: random.Random, num_steps: int
) -> None:
    """Teaches the vision tower and its projection colour and shape."""
    colours, shapes = tuple(pictures.COLOURS), pictures.SHAPES

    def batches() -> Iterator[Batch]:
        while True:
            # More small shapes than elsewhere: they are the ones misread.
            drawn = [pictures.draw(rng, largest=rng.choice((0.48, 0.15))) for _ in range(24)]
            pixels = pixel_values(processor, drawn)
            yield (
                pixels,
                [
                    torch.tensor([colours.index(picture.colour) for picture in drawn]),
                    torch.tensor([shapes.index(picture.shape) for picture in drawn]),
                ],
            )

    parts = [model.model.vision_tower, model.model.embed_vision]
    _train(
        "vision", parts, lambda x: image_tokens(model, x), batches(), (len(colours), len(shapes)), num_steps
    )


def train_audio(
    model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, rng: random.Random, num_steps: int
) -> None:
    """Teaches the audio tower and its projection to tell low, high and silent."""
    kinds = tuple(tones.ANSWERS)

    def batches() -> Iterator[Batch]:
        while True:
            labels = [rng.randrange(len(kinds)) for _ in range(16)]
            duration_s = rng.uniform(0.5, 3.0)
            features = mel_frames(processor, [tones.make(rng, kinds[k], duration_s) for k in labels])
            yield features, [torch.tensor(labels)]

    parts = [model.model.audio_tower, model.model.embed_audio]
    _train("audio", parts, lambda x: audio_tokens(model, x), batches(), (len(kinds),), num_steps)


def pixel_values(processor: Gemma3nProcessor, drawn: list[pictures.Picture]) -> Tensor:
    """Returns what the image processor makes of pictures: ``[batch, 3, side, side]`` float32."""
    images = [picture.image for picture in drawn]
    return processor.image_processor(images, return_tensors="pt")["pixel_values"]


def mel_frames(processor: Gemma3nProcessor, clips: list) -> Tensor:
    """Returns the log-mel frames of clips of one length: ``[batch, frames, 128]`` float32."""
    return processor.feature_extractor(clips, return_tensors="pt")["input_features"].float()


def image_tokens(model: Gemma3nForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Encodes pictures into soft tokens ``[batch, tokens, hidden]``."""
    return model.model.get_image_features(pixels, return_dict=True).pooler_output


def audio_tokens(model: Gemma3nForConditionalGeneration, features: Tensor) -> Tensor:
    """Encodes clips of one length, without padding, into soft tokens ``[batch, frames / 16, hidden]``."""
    padding = torch.zeros(features.shape[:2], dtype=torch.bool)
    return model.model.get_audio_features(features, padding, return_dict=True).pooler_output


def _train(
    name: str,
    parts: list[nn.Module],
    encode: Callable[[Tensor], Tensor],
    batches: Iterator[Batch],
    num_answers: tuple[int, ...],
    num_steps: int,
) -> None:
    head = Head(parts[1].text_hidden_size, num_answers)
    parameters = [p for part in (*parts, head) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=num_steps, pct_start=0.1
    )
    right = 0.0
    for step in range(1, num_steps + 1):
        inputs, labels = next(batches)
        logits = head(encode(inputs))
        loss = sum(nn.functional.cross_entropy(x, y) for x, y in zip(logits, labels, strict=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        hits = torch.stack([x.argmax(-1) == y for x, y in zip(logits, labels, strict=True)]).all(0)
        right += 0.05 * (hits.float().mean().item() - right)
        if step % 25 == 0:
            log.info("%s step %d/%d loss %.3f right %.3f", name, step, num_steps, loss.item(), right)
