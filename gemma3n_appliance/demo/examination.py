"""The questions the demo checkpoint is examined with, and how its answers are marked.

Wordings, names, pictures and sounds here are ones that training did not use, but for what is asked under
a system prompt. An examined skill passes when its share of exactly right answers reaches the level in
``LEVELS``.
"""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import board, calls
from . import conversations as c
from .words import listed

LEVELS = {
    "appliance and small talk": 0.80,
    "one picture": 0.95,
    "two pictures": 0.90,
    "tone": 0.95,
    "name over turns": 0.90,
    "system prompt": 0.90,
    "count": 0.90,
    "spell": 0.90,
    "call": 0.90,
    "two calls": 0.90,
    "result": 0.90,
    "no call": 0.90,
}


@dataclass(frozen=True)
class Question:
    """A conversation whose last answer is what the model is to give; earlier answers are its history."""

    kind: str
    conversation: c.Conversation

    @property
    def expected(self) -> str:
        """The right answer."""
        return self.conversation.exchanges[-1].answer


@dataclass(frozen=True)
class Mark:
    """An answer beside its question."""

    question: Question
    answer: str

    @property
    def right(self) -> bool:
        """Whether the answer is exactly right, but for space around it."""
        return self.answer.strip() == self.question.expected


def questions(seed: int, per_kind: int) -> list[Question]:
    """Draws ``per_kind`` questions of each kind; of the appliance, every held-out wording once at most."""
    rng = random.Random(seed)
    asked = c.wordings("heldout")
    makers: dict[str, Callable[[], c.Conversation]] = {
        "one picture": lambda: _alone(c.one_picture(rng, asked)),
        "two pictures": lambda: _alone(c.two_pictures(rng, asked)),
        "tone": lambda: _alone(c.tone(rng, asked)),
        "name over turns": lambda: _named(rng, asked),
        "system prompt": lambda: _shouted(rng, asked),
        "count": lambda: _alone(c.count(rng, asked)),
        "spell": lambda: _alone(c.spell(rng, asked, _unlisted_word(rng))),
        "call": lambda: _to_be_called(rng, asked),
        "two calls": lambda: _to_be_called_twice(rng, asked),
        "result": lambda: _with_a_result(rng, asked),
        "no call": lambda: _not_to_be_called(rng, asked),
    }
    drawn = [Question("appliance and small talk", x) for x in _topics(rng, asked, 2 * per_kind)]
    return drawn + [Question(kind, make()) for kind, make in makers.items() for _ in range(per_kind)]


def shares(marks: list[Mark]) -> dict[str, float]:
    """Returns the share of right answers by kind."""
    by_kind: dict[str, list[bool]] = {}
    for mark in marks:
        by_kind.setdefault(mark.question.kind, []).append(mark.right)
    return {kind: sum(right) / len(right) for kind, right in by_kind.items()}


def report(marks: list[Mark]) -> Iterator[str]:
    """Yields a line a kind, and the wrong answers."""
    for kind, share in shares(marks).items():
        verdict = "pass" if share >= LEVELS[kind] else "FAIL"
        yield f"{kind:26} {share:6.1%}  (at least {LEVELS[kind]:.0%})  {verdict}"
    for mark in marks:
        if not mark.right:
            text = mark.question.conversation.exchanges[-1].text
            yield f"  {mark.question.kind}: {text!r} -> {mark.answer!r}, not {mark.question.expected!r}"


def _topics(rng: random.Random, asked: c.Wordings, most: int) -> Iterator[c.Conversation]:
    known = [(key, text) for key in asked.answers for text in asked.by_key[key]]
    for key, text in rng.sample(known, min(most, len(known))):
        yield _alone(c.Exchange(text, asked.answers[key]))


def _alone(exchange: c.Exchange) -> c.Conversation:
    return c.Conversation([exchange])


def _named(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    name = rng.choice(listed("names_heldout"))
    exchanges = [c.introduction(rng, asked, name), c.own_name(rng, asked, name)]
    if rng.random() < 0.5:
        exchanges.insert(1, c.topic(rng, asked))
    return c.Conversation(exchanges)


def _shouted(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Asks with a taught wording, so that only the system prompt is examined."""
    exchange = c.topic(rng, c.wordings("taught"))
    return c.Conversation([c.shout(exchange)], asked.ask(rng, "caps_system"))


def _to_be_called(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Asks for something that there is a function for."""
    toolset = board.draw(rng)
    return c.Conversation(rng.choice(calls.makers(toolset))(rng, asked)[:1], toolset=toolset)


def _to_be_called_twice(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    return c.Conversation(calls.two_temperatures(rng, asked)[:1], toolset=_thermometer(rng))


def _with_a_result(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Has one temperature or two, for the answer to tell; what the fan returns tells nothing new."""
    maker = rng.choice((calls.temperature, calls.two_temperatures))
    return c.Conversation(maker(rng, asked), toolset=_thermometer(rng))


def _thermometer(rng: random.Random) -> board.Toolset:
    """Draws functions until they can read two temperatures at once."""
    toolset = board.draw(rng)
    while not (toolset.includes("get_temperature") and toolset.parallel):
        toolset = board.draw(rng)
    return toolset


def _not_to_be_called(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Asks for what has nothing to do with the functions, or that they cannot do."""
    toolset = board.draw(rng)
    if len(toolset.functions) == 1 and rng.random() < 0.3:
        return c.Conversation([calls.out_of_reach(rng, asked, toolset)], toolset=toolset)
    return c.Conversation([c.topic(rng, asked)], toolset=toolset)


def _unlisted_word(rng: random.Random) -> str:
    known = set(listed("words"))
    while True:
        word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 4)))
        word = rng.choice(listed("words_heldout")) if rng.random() < 0.8 else word
        if word not in known:
            return word
