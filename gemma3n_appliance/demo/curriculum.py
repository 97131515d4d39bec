"""Puts exchanges together into the conversations that training draws from, each kind in its share."""

import random
from dataclasses import replace

from . import board, calls, words
from . import conversations as c
from .board import Toolset


def copied(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Draws practice in copying, which names and spelling need.

    Alone it is learnt in 800 steps; in the mixture that follows, 5,000 did not teach it.
    """
    kind = rng.random()
    if kind < 0.45:
        return c.Conversation([c.repeat(rng, asked) for _ in range(rng.choice((1, 2)))])
    if kind < 0.7:
        return c.Conversation([c.spell(rng, asked) for _ in range(rng.choice((1, 2)))])
    if kind < 0.95:
        return c.Conversation(_names(rng, asked, between=(0,)))
    return spoken(rng, asked)


def spoken(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Draws a conversation without media: one to three exchanges, often under a system prompt."""
    kind = rng.random()
    if kind < 0.18:
        exchanges = _names(rng, asked, between=(0, 0, 1, 2))
    elif kind < 0.21:
        exchanges = [calls.out_of_reach(rng, asked, Toolset(()))]
    else:
        exchanges = [_text(rng, asked) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    return _under_a_system_prompt(rng, asked, exchanges)


def shown(rng: random.Random, asked: c.Wordings, media: c.Media = c.FRESH) -> c.Conversation:
    """Draws a conversation with pictures or a sound, perhaps with text before or after."""
    kind = rng.random()
    if kind < 0.3:
        exchanges = [c.one_picture(rng, asked, media)]
        if rng.random() < 0.2:
            exchanges.append(_again(rng, asked, exchanges[0]))
    elif kind < 0.9:
        exchanges = [c.two_pictures(rng, asked, media, alike=0.4)]
    else:
        exchanges = [c.tone(rng, asked, media)]
    exchanges[0].text = c.careless(rng, exchanges[0].text)
    if rng.random() < 0.2:
        exchanges.insert(rng.randint(0, 1), _text(rng, asked))
    return _under_a_system_prompt(rng, asked, exchanges)


def called(rng: random.Random, asked: c.Wordings) -> c.Conversation:
    """Draws a conversation in which there are functions to call, mostly one that calls them."""
    toolset = board.draw(rng)
    exchanges = _with_functions(rng, asked, toolset)
    exchanges[0].text = c.careless(rng, exchanges[0].text)
    if rng.random() < 0.25:
        more = [_text(rng, asked)] if rng.random() < 0.5 else _with_functions(rng, asked, toolset)
        exchanges = exchanges + more if rng.random() < 0.5 else more + exchanges
    return replace(_under_a_system_prompt(rng, asked, exchanges), toolset=toolset)


def _with_functions(rng: random.Random, asked: c.Wordings, toolset: Toolset) -> list[c.Exchange]:
    if rng.random() < 0.18:
        return [c.topic(rng, asked)]
    if len(toolset.functions) == 1 and rng.random() < 0.15:
        return [calls.out_of_reach(rng, asked, toolset)]
    makers = calls.makers(toolset) * 4
    if calls.temperature in makers and toolset.parallel:
        makers.append(calls.two_temperatures)
    return rng.choice(makers)(rng, asked)


def _text(rng: random.Random, asked: c.Wordings) -> c.Exchange:
    kind = rng.random()
    if kind < 0.5:
        exchange = c.topic(rng, asked)
        exchange.text = c.careless(rng, _forgetful(rng, exchange.text))
        return exchange
    exchange = (
        c.spell(rng, asked) if kind < 0.78 else c.count(rng, asked, rng.choice((10, 20, 20, 40, 40, 100)))
    )
    if rng.random() < 0.2:
        exchange.text = exchange.text.rstrip(".?!")
    return exchange


def _names(rng: random.Random, asked: c.Wordings, between: tuple[int, ...]) -> list[c.Exchange]:
    name = words.a_name(rng)
    if rng.random() < 0.06:
        return [c.own_name(rng, asked, None)]
    told, wanted = c.introduction(rng, asked, name), c.own_name(rng, asked, name)
    wanted.text = c.careless(rng, wanted.text)
    if rng.random() < 0.15:
        return [c.Exchange(f"{told.text} {wanted.text}", wanted.answer)]
    return [told, *(_text(rng, asked) for _ in range(rng.choice(between))), wanted]


def _again(rng: random.Random, asked: c.Wordings, seen: c.Exchange) -> c.Exchange:
    """Asks about the picture of an earlier turn."""
    picture = seen.images[0]
    key, answer = rng.choice(
        (("image_colour", f"It is {picture.colour}."), ("image_shape", f"It is a {picture.shape}."))
    )
    return c.Exchange(asked.ask(rng, key), answer)


def _under_a_system_prompt(
    rng: random.Random, asked: c.Wordings, exchanges: list[c.Exchange]
) -> c.Conversation:
    kind = rng.random()
    if kind < 0.18:
        return c.Conversation([c.shout(e) for e in exchanges], c.careless(rng, asked.ask(rng, "caps_system")))
    if kind < 0.34:
        return c.Conversation(exchanges, asked.ask(rng, "plain_system"))
    return c.Conversation(exchanges)


def _forgetful(rng: random.Random, text: str) -> str:
    """Leaves out a word now and then, so that no single word decides."""
    parts = text.split(" ")
    if len(parts) < 5 or rng.random() < 0.65:
        return text
    return " ".join(part for part in parts if rng.random() > 0.12) or text
