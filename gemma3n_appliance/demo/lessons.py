"""Turns conversations into packed batches of token ids, labels and media for the language stage."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Gemma3nProcessor

from .conversations import Conversation, Exchange
from .pictures import Picture
from .tones import Clip

IGNORED = -100
# One shape for every batch: torch.compile compiles once. A row holds all but the rarest conversations.
NUM_ROWS = 8
ROW_LENGTH = 576
# A batch is full once so many lessons found no room in it; they are the first of the next.
MOST_WAITING = 24


@dataclass
class Lesson:
    """One conversation as the model sees it; ``labels`` are token ids where the model speaks, else -100."""

    token_ids: list[int]
    labels: list[int]
    images: list[Picture]
    audio: list[Clip]


@dataclass
class Batch:
    """Lessons packed into rows, all int64 ``[NUM_ROWS, ROW_LENGTH]``.

    ``lesson`` numbers the lesson that each position belongs to, so that none attends to another. Positions
    need no numbers of their own: what attention makes of RoPE depends on distances alone.
    """

    token_ids: Tensor
    labels: Tensor
    lesson: Tensor
    images: list[Picture]
    audio: list[Clip]


class Teacher:
    """Encodes conversations exactly as the chat template and the processor do (a test compares them)."""

    def __init__(self, processor: Gemma3nProcessor) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        # Not <pad>: its embedding is zero, and the gradient of a zero's magnitude is not a number.
        self._filler = processor.tokenizer.eos_token_id

    def lesson(self, conversation: Conversation) -> Lesson:
        """Encodes one conversation."""
        lesson = Lesson([self._tokenizer.bos_token_id], [IGNORED], [], [])
        told = [conversation.system, conversation.toolset.instructions if conversation.toolset else None]
        preamble = "".join(f"{text}\n\n" for text in told if text)
        for exchange in conversation.exchanges:
            self._hear(lesson, f"<start_of_turn>user\n{preamble}{self._content(exchange)}<end_of_turn>\n")
            self._hear(lesson, "<start_of_turn>model\n")
            self._say(lesson, f"{exchange.answer}<end_of_turn>")
            self._hear(lesson, "\n")
            lesson.images += exchange.images
            lesson.audio += exchange.audio
            preamble = ""
        return lesson

    def batches(self, draw: Callable[[], Conversation]) -> Iterator[Batch]:
        """Draws conversations without end and packs them; those that no row can hold are left out."""
        waiting: list[Lesson] = []
        while True:
            rows = Rows()
            waiting = [lesson for lesson in waiting if not rows.take(lesson)]
            while len(waiting) < MOST_WAITING:
                lesson = self.lesson(draw())
                if len(lesson.token_ids) <= ROW_LENGTH and not rows.take(lesson):
                    waiting.append(lesson)
            yield rows.batch(self._filler)

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


class Rows:
    """The rows of one batch as they fill up with lessons."""

    def __init__(self) -> None:
        self._rows: list[list[Lesson]] = [[] for _ in range(NUM_ROWS)]
        self._room = [ROW_LENGTH] * NUM_ROWS

    def take(self, lesson: Lesson) -> bool:
        """Puts the lesson where it leaves the least room; False if it fits nowhere."""
        length = len(lesson.token_ids)
        fitting = [row for row in range(NUM_ROWS) if self._room[row] >= length]
        if not fitting:
            return False
        row = min(fitting, key=lambda row: self._room[row])
        self._rows[row].append(lesson)
        self._room[row] -= length
        return True

    def batch(self, filler: int) -> Batch:
        """Returns what was taken, filled up with the id ``filler``, media in the order of their places."""
        lessons = [lesson for row in self._rows for lesson in row]
        numbers = [[i for i, x in enumerate(row) for _ in x.token_ids] for row in self._rows]
        return Batch(
            _filled([[i for x in row for i in x.token_ids] for row in self._rows], filler),
            _filled([[i for x in row for i in x.labels] for row in self._rows], IGNORED),
            _filled(numbers, -1),
            [image for lesson in lessons for image in lesson.images],
            [clip for lesson in lessons for clip in lesson.audio],
        )


def _filled(rows: list[list[int]], filler: int) -> Tensor:
    return torch.tensor([row + [filler] * (ROW_LENGTH - len(row)) for row in rows])
