"""A runner without a model: a token is a byte, and what it answers to a prompt is given."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gemma3n_appliance.engine.grammar import Grammars
from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.engine.runner import Admission, LoadedModel, Logprobs

EOS = 256
PIECES = [bytes([byte]) for byte in range(256)] + [b""]
GRAMMARS = Grammars(PIECES, {EOS: "<eos>"}, frozenset({EOS}), lambda text: [*text.encode()])
TIMEOUT_S = 20.0

Call = tuple[object, ...]


def request(prompt: bytes, max_tokens: int = 50, **fields: object) -> GenerationRequest:
    """A request whose id is its prompt."""
    return GenerationRequest(prompt.decode(), tuple(prompt), Sampling(temperature=0.0), max_tokens, **fields)


class Gate:
    """Where the engine's thread waits for the test; open until it is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = True
        self._num_inside = 0

    def close(self) -> None:
        with self._changed:
            self._is_open = False

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def wait_for_arrival(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._num_inside, TIMEOUT_S), "nobody came to the gate"

    def enter(self) -> None:
        with self._changed:
            self._num_inside += 1
            self._changed.notify_all()
            opened = self._changed.wait_for(lambda: self._is_open, TIMEOUT_S)
            self._num_inside -= 1
            assert opened, "nobody opened the gate"


@dataclass
class Slot:
    request: GenerationRequest
    rest: list[int]
    num_read: int = 0


@dataclass
class FakeRunner:
    """Implements `engine.runner.Runner`, and holds its caller to the order that `Runner` describes.

    Prompts without an answer of their own get ``answer``; an answer ends with EOS, again and again.
    """

    answers: Mapping[bytes, bytes] = field(default_factory=dict)
    answer: bytes = b"Hello."
    num_slots: int = 2
    max_context: int = 100
    num_cached_tokens: int = 0
    calls: list[Call] = field(default_factory=list)
    gates: dict[str, Gate] = field(
        default_factory=lambda: {name: Gate() for name in ("begin", "prefill", "decode", "release")}
    )

    def __post_init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._faults: list[tuple[str, bytes | None, BaseException]] = []

    def loaded(self) -> LoadedModel:
        return LoadedModel(self, PIECES, frozenset({EOS}), "fake", GRAMMARS)

    def raise_in(
        self, name: str, error: BaseException, prompt: bytes | None = None, *, times: int = 1
    ) -> None:
        """Has the next calls of that name, or the next that concern that prompt, fail."""
        self._faults += [(name, prompt, error)] * times

    def open_gates(self) -> None:
        for gate in self.gates.values():
            gate.open()

    @property
    def busy_slots(self) -> set[int]:
        return set(self._slots)

    def begin(self, free: Sequence[int], request: GenerationRequest) -> Admission:
        assert set(free) == {*range(self.num_slots)} - {*self._slots}, "not the free slots"
        slot = free[0]
        self._slots[slot] = Slot(request, [*self.answers.get(bytes(request.token_ids), self.answer)])
        try:
            self._enter("begin", [slot], slot)
        except BaseException:
            del self._slots[slot]
            raise
        return Admission(slot, self.num_cached_tokens)

    def prefill(self, slot: int, max_tokens: int) -> int | None:
        work = self._slots[slot]
        num_tokens = min(max_tokens, len(work.request.token_ids) - work.num_read)
        assert num_tokens > 0, "the prompt has been read"
        self._enter("prefill", [slot], slot, num_tokens)
        work.num_read += num_tokens
        return self._next(slot) if work.num_read == len(work.request.token_ids) else None

    def decode(self, slots: Sequence[int]) -> list[int | None]:
        assert all(self._slots[slot].num_read == len(self._slots[slot].request.token_ids) for slot in slots)
        self._enter("decode", slots, *slots)
        return [self._next(slot) for slot in slots]

    def logprobs(self, slot: int) -> Logprobs | None:
        if self._slots[slot].request.num_top_logprobs is None:
            return None
        return Logprobs(-0.5, ((EOS, -1.0),))

    def release(self, slot: int) -> None:
        self._enter("release", [slot], slot)
        self._slots.pop(slot)

    def _enter(self, name: str, slots: Sequence[int], *arguments: int) -> None:
        self.calls.append((name, *arguments))
        self.gates[name].enter()
        prompts = [bytes(self._slots[slot].request.token_ids) for slot in slots]
        for fault in self._faults:
            if fault[0] == name and (fault[1] is None or fault[1] in prompts):
                self._faults.remove(fault)
                raise fault[2]

    def _next(self, slot: int) -> int:
        rest = self._slots[slot].rest
        return rest.pop(0) if rest else EOS
