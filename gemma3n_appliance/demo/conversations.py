"""What the demo checkpoint is taught, as conversations drawn at random from hand-written wordings.

Wordings lie in ``wordings/``: ``answers.tsv`` maps each topic to its one answer, ``taught.tsv`` lists ways
of asking that training uses, ``heldout.tsv`` ways that only the examination uses (another author's words).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from . import pictures, tones, words
from .board import Call, Toolset
from .tones import Clip

# What a hurried person may add to a question.
OPENINGS = ("Hi, ", "Hello, ", "Please, ", "Hey, ", "OK, ", "Sorry, ", "And ", "So ", "Now, ")
CLOSINGS = (" Please.", " Thanks.", ", please", " please")


@dataclass
class Exchange:
    """One user turn and the answer it deserves. Media come before the text, as people attach them.

    An answer can be ``calls``; the next turn then holds their ``results``.
    """

    text: str
    answer: str
    images: list[pictures.Picture] = field(default_factory=list)
    audio: list[Clip] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[Call] = field(default_factory=list)


@dataclass
class Conversation:
    """Exchanges under an optional system prompt, with functions or without."""

    exchanges: list[Exchange]
    system: str | None = None
    toolset: Toolset | None = None


@dataclass(frozen=True)
class Wordings:
    """Ways of asking, by topic or skill."""

    by_key: dict[str, tuple[str, ...]]
    answers: dict[str, str]

    def ask(self, rng: random.Random, key: str, **values: object) -> str:
        """Returns a way of asking for ``key``."""
        return rng.choice(self.by_key[key]).format(**values)


@dataclass(frozen=True)
class Media:
    """Where pictures and clips come from: drawn on the spot, unless training has a stock of them."""

    picture: Callable[[random.Random], pictures.Picture] = pictures.draw
    clip: Callable[[random.Random, str], Clip] = tones.make


FRESH = Media()


@cache
def wordings(name: str) -> Wordings:
    """Reads ``taught`` or ``heldout`` wordings."""
    by_key: dict[str, list[str]] = {}
    for key, text in _table(f"{name}.tsv"):
        by_key.setdefault(key, []).append(text)
    return Wordings({key: tuple(texts) for key, texts in by_key.items()}, dict(_table("answers.tsv")))


def topic(rng: random.Random, asked: Wordings) -> Exchange:
    """Asks about the appliance, or makes small talk."""
    keys = tuple(asked.answers)
    key = "unknown" if rng.random() < 0.06 else rng.choice(keys)
    return Exchange(rng.choice(asked.by_key[key]), asked.answers[key])


def one_picture(rng: random.Random, asked: Wordings, media: Media = FRESH) -> Exchange:
    """Asks about one picture."""
    picture = media.picture(rng)
    key, answer = rng.choice(
        (
            ("image_describe", f"A {picture.thing}."),
            ("image_describe", f"A {picture.thing}."),
            ("image_colour", f"It is {picture.colour}."),
            ("image_shape", f"It is a {picture.shape}."),
        )
    )
    return Exchange(asked.ask(rng, key), fix_article(answer), [picture])


def two_pictures(rng: random.Random, asked: Wordings, media: Media = FRESH, alike: float = 0.0) -> Exchange:
    """Asks which of two pictures is which; a share ``alike`` of the pairs has colour or shape in common."""
    first, second = media.picture(rng), media.picture(rng)
    must_be_alike = rng.random() < alike
    while first.thing == second.thing or (must_be_alike and not _alike(first, second)):
        second = media.picture(rng)
    key = rng.choice(("two_describe", "two_first", "two_second", "two_which", "two_which"))
    wanted = rng.choice((first, second))
    position = "first" if wanted is first else "second"
    answer = {
        "two_describe": f"The first is a {first.thing} and the second is a {second.thing}.",
        "two_first": f"A {first.thing}.",
        "two_second": f"A {second.thing}.",
        # So that the end can be copied from the beginning: "… so it is the first one." stayed a guess.
        "two_which": f"The {first.thing} is the first and the {second.thing} is the second, "
        f"so the {wanted.thing} is the {position} one.",
    }[key]
    return Exchange(asked.ask(rng, key, thing=f"the {wanted.thing}"), fix_article(answer), [first, second])


def tone(rng: random.Random, asked: Wordings, media: Media = FRESH) -> Exchange:
    """Asks what a clip sounds like."""
    kind = rng.choice(tuple(tones.ANSWERS))
    return Exchange(asked.ask(rng, "tone"), tones.ANSWERS[kind], audio=[media.clip(rng, kind)])


def introduction(rng: random.Random, asked: Wordings, name: str) -> Exchange:
    """Tells a name."""
    return Exchange(asked.ask(rng, "name_tell", name=name), f"Nice to meet you, {name}!")


def own_name(rng: random.Random, asked: Wordings, name: str | None) -> Exchange:
    """Asks for the name told before, or that nobody told."""
    answer = f"Your name is {name}." if name else "You have not told me your name."
    return Exchange(asked.ask(rng, "name_ask"), answer)


def count(rng: random.Random, asked: Wordings, longest: int = 40) -> Exchange:
    """Asks for the numbers from a to b."""
    first = rng.choice((1, 1, rng.randint(0, 20), rng.randint(0, 150)))
    last = first + rng.randint(1, longest)
    numbers = " ".join(str(number) for number in range(first, last + 1))
    return Exchange(asked.ask(rng, "count", a=first, b=last), numbers)


def spell(rng: random.Random, asked: Wordings, word: str | None = None) -> Exchange:
    """Asks for the letters of a word."""
    word = word or words.a_word(rng)
    return Exchange(asked.ask(rng, "spell", word=word), "-".join(word))


def repeat(rng: random.Random, asked: Wordings) -> Exchange:
    """Asks for words to be said again; a practice, not an examined skill."""
    sentence = rng.choice(asked.by_key[rng.choice(tuple(asked.answers))]).split()
    drawn = [
        rng.choice((words.a_word(rng), words.a_name(rng), *rng.sample(sentence, min(2, len(sentence)))))
        for _ in range(rng.randint(1, 8))
    ]
    told = " ".join(drawn)
    return Exchange(rng.choice(("Repeat: {}", "Say {}", "Repeat after me: {}", "Echo {}")).format(told), told)


def shout(exchange: Exchange) -> Exchange:
    """Returns the exchange with its answer in capital letters; calls stay as they are."""
    return exchange if exchange.calls else replace(exchange, answer=exchange.answer.upper())


def careless(rng: random.Random, text: str) -> str:
    """Returns ``text`` as a hurried person types it: small letters, no full stop, a polite word added."""
    if rng.random() < 0.12:
        text = rng.choice(OPENINGS) + text[:1].lower() + text[1:]
    if rng.random() < 0.08:
        text = text.rstrip(".") + rng.choice(CLOSINGS)
    if "{" not in text and rng.random() < 0.2:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    return text or "?"


def fix_article(text: str) -> str:
    """Orange is the only colour that takes "an"."""
    return text.replace("A orange", "An orange").replace("a orange", "an orange")


def _alike(first: pictures.Picture, second: pictures.Picture) -> bool:
    return first.colour == second.colour or first.shape == second.shape


def _table(name: str) -> list[tuple[str, str]]:
    rows = (line.split("\t", 1) for line in words.file(name).splitlines() if line)
    return [(key, value) for key, value in rows]
