"""Turns conversations into padded batches of token ids, labels and media for the language stage."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Gemma3nProcessor

from .conversations import Conversation, Exchange
from .pictures import Picture
from .tones import Clip

IGNORED = -100
LESSONS_DRAWN = 192
# torch.compile makes other code beyond 2,048 and beyond 4,096 tokens: between the two, it compiles once.
BATCH_TOKENS = 4000
LEAST_BATCH_TOKENS = 2049


@dataclass
class Lesson:
    """One conversation as the model sees it; ``labels`` are token ids where the model speaks, else -100."""

    token_ids: list[int]
    labels: list[int]
    images: list[Picture]
    audio: list[Clip]


@dataclass
class Batch:
    """Lessons padded on the right, where causal attention needs no mask; int64 ``[batch, longest]``."""

    token_ids: Tensor
    labels: Tensor
    images: list[Picture]
    audio: list[Clip]


class Teacher:
    """Encodes conversations exactly as the chat template and the processor do (a test compares them)."""

    def __init__(self, processor: Gemma3nProcessor) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._pad = processor.tokenizer.pad_token_id

    def lesson(self, conversation: Conversation) -> Lesson:
        """Encodes one conversation."""
        lesson = Lesson([self._tokenizer.bos_token_id], [IGNORED], [], [])
        preamble = f"{conversation.system}\n\n" if conversation.system else ""
        for exchange in conversation.exchanges:
            self._hear(lesson, f"<start_of_turn>user\n{preamble}{self._content(exchange)}<end_of_turn>\n")
            self._hear(lesson, "<start_of_turn>model\n")
            self._say(lesson, f"{exchange.answer}<end_of_turn>")
            self._hear(lesson, "\n")
            lesson.images += exchange.images
            lesson.audio += exchange.audio
            preamble = ""
        return lesson

    def batches(self, draw: Callable[[], Conversation], rng: random.Random) -> list[Batch]:
        """Draws conversations and groups them by length, to pad little, up to ``BATCH_TOKENS`` a batch."""
        lessons = sorted((self.lesson(draw()) for _ in range(LESSONS_DRAWN)), key=lambda x: len(x.token_ids))
        groups: list[list[Lesson]] = [[]]
        for lesson in lessons:
            if (len(groups[-1]) + 1) * len(lesson.token_ids) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(lesson)
        rng.shuffle(groups)
        return [self._batch(group) for group in groups]

    def _content(self, exchange: Exchange) -> str:
        pictures = self._processor.full_image_sequence * len(exchange.images)
        sounds = self._processor.full_audio_sequence * len(exchange.audio)
        return f"{pictures}{sounds}{exchange.text.strip()}"

    def _hear(self, lesson: Lesson, text: str) -> None:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        lesson.token_ids += ids
        lesson.labels += [IGNORED] * len(ids)

    def _say(self, lesson: Lesson, text: str) -> None:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        lesson.token_ids += ids
        lesson.labels += ids

    def _batch(self, lessons: list[Lesson]) -> Batch:
        longest = max(len(lesson.token_ids) for lesson in lessons)
        longest = max(longest, math.ceil(LEAST_BATCH_TOKENS / len(lessons)))
        return Batch(
            torch.tensor([x.token_ids + [self._pad] * (longest - len(x.token_ids)) for x in lessons]),
            torch.tensor([x.labels + [IGNORED] * (longest - len(x.labels)) for x in lessons]),
            [image for lesson in lessons for image in lesson.images],
            [clip for lesson in lessons for clip in lesson.audio],
        )
