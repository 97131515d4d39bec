"""Names and words to talk about, and made-up ones, so that copying is learnt rather than remembered."""

import random
import re
import string
from functools import cache
from importlib import resources

from . import board


def file(name: str) -> str:
    """Returns the text of a file in ``wordings/``."""
    return (resources.files(__package__) / "wordings" / name).read_text()


@cache
def listed(name: str) -> tuple[str, ...]:
    """Returns the lines of a word list in ``wordings/``."""
    return tuple(line for line in file(f"{name}.txt").split("\n") if line)


def a_name(rng: random.Random) -> str:
    """Returns a first name, listed or invented, that the examination does not use."""
    name = rng.choice(listed("names"))
    if rng.random() < 0.7:
        name = invented(rng, name.lower()).capitalize()
    return name if name not in listed("names_heldout") else a_name(rng)


def a_word(rng: random.Random) -> str:
    """Returns a word to spell, listed or invented, that the examination does not use."""
    word = rng.choice(listed("words"))
    kind = rng.random()
    if kind < 0.25:
        word = invented(rng, word)
    elif kind < 0.35:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 6)))
    elif kind < 0.6:
        word = _with_a_token(rng)
    if rng.random() < 0.12:
        # Doubled letters are the ones lost in copying.
        i = rng.randrange(len(word))
        word = word[:i] + word[i] + word[i:]
    if word in listed("words_heldout"):
        return a_word(rng)
    style = rng.random()
    if style < 0.12:
        return word.capitalize()
    return word.upper() if style < 0.16 else word


def _with_a_token(rng: random.Random) -> str:
    """Returns a word with a piece of what else is talked about, so that every token is spelled at times."""
    spoken = rng.choice(_spoken())
    start = rng.choice((0, 0, rng.randrange(len(spoken))))
    piece = spoken[start : start + rng.randint(3, 8)]
    kind = rng.random()
    if kind < 0.3:
        return piece
    other = rng.choice(listed("words"))
    return piece + other[-rng.randint(1, 3) :] if kind < 0.7 else other[: rng.randint(1, 3)] + piece


@cache
def _spoken() -> tuple[str, ...]:
    """Returns the words of all that is taught, each once, so that rare ones come as often as others."""
    text = " ".join([file("taught.tsv"), file("answers.tsv"), *board.told()])
    return tuple(sorted(set(re.findall(r"[a-z]{3,}", text.lower()))))


def invented(rng: random.Random, like: str) -> str:
    """Returns a made-up word about as long as ``like``, whose letters follow each other as in the lists."""
    follow = _followers()
    length = max(3, len(like) + rng.randint(-2, 2))
    word = rng.choice(listed("words"))[:2]
    while len(word) < length:
        word += rng.choice(follow.get(word[-2:], "aeioutrns"))
    return word[:length]


@cache
def _followers() -> dict[str, str]:
    follow: dict[str, str] = {}
    for word in (*listed("words"), *(name.lower() for name in listed("names"))):
        for i in range(len(word) - 2):
            follow[word[i : i + 2]] = follow.get(word[i : i + 2], "") + word[i + 2]
    return follow
