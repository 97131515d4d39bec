"""A runner that says a given text, one character a token, and can be held and broken."""

import threading
import time
from collections.abc import Sequence

from gemma3n_appliance.engine.request import GenerationRequest
from gemma3n_appliance.engine.runner import Admission, LoadedModel, Logprobs
from tests.fakes import checkpoint

VOCAB = checkpoint.tokenizer().get_vocab()
EOS = VOCAB["<end_of_turn>"]
PIECES = checkpoint.pieces()


def tokens(text: str) -> list[int]:
    return [VOCAB["▁" if character == " " else character] for character in text]


class Speaker:
    max_context = 2_000

    def __init__(self, answer: str = "Hello there.", num_slots: int = 2) -> None:
        self.answer = answer
        self.num_slots = num_slots
        self.requests: list[GenerationRequest] = []
        self.prefill_error: Exception | None = None
        self.fail_after: int | None = None
        self.answer_endlessly = False
        self.may_decode = threading.Event()
        self.may_decode.set()
        self.released = threading.Event()
        self._rest: dict[int, list[int]] = {}

    def begin(self, free: Sequence[int], request: GenerationRequest) -> Admission:
        slot = free[0]
        self.requests.append(request)
        self._rest[slot] = [*tokens(self.answer), EOS]
        return Admission(slot)

    def prefill(self, slot: int, max_tokens: int) -> int | None:
        if self.prefill_error is not None:
            raise self.prefill_error
        return self._next(slot)

    def decode(self, slots: Sequence[int]) -> list[int | None]:
        self.may_decode.wait(10)
        if self.answer_endlessly:
            time.sleep(0.05)
            return [VOCAB["!"] for _ in slots]
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise RuntimeError("the device is gone")
        return [self._next(slot) for slot in slots]

    def logprobs(self, slot: int) -> Logprobs | None:
        return None

    def release(self, slot: int) -> None:
        del self._rest[slot]
        self.released.set()

    def _next(self, slot: int) -> int:
        rest = self._rest[slot]
        return rest.pop(0) if rest else VOCAB["!"]

    def loaded(self, **senses: bool) -> LoadedModel:
        return LoadedModel(self, PIECES, frozenset({EOS}), "cpu", checkpoint.grammars(), **senses)
