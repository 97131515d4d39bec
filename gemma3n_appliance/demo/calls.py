"""Exchanges in which the demo checkpoint calls a board's functions, and answers from what they return."""

import random

from . import board
from .board import Board, Call
from .conversations import Exchange, Wordings


def temperature(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks how hot a part is: a call, and the answer from its result."""
    sensor = rng.choice(tuple(board.SENSORS))
    call, degrees = board.reading(rng, sensor)
    text = asked.ask(rng, "ask_temperature", sensor=board.SENSORS[sensor])
    return _called(text, [call], f"The {board.SENSORS[sensor]} is at {degrees} degrees.")


def two_temperatures(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks how hot two parts are: two calls at once, and one answer."""
    first, second = rng.sample(tuple(board.SENSORS), 2)
    (call, degrees), (other_call, other_degrees) = board.reading(rng, first), board.reading(rng, second)
    part, other_part = board.SENSORS[first], board.SENSORS[second]
    text = asked.ask(rng, "ask_two_temperatures", first=part, second=other_part)
    answer = f"The {part} is at {degrees} degrees and the {other_part} is at {other_degrees} degrees."
    return _called(text, [call, other_call], answer)


def fan(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks for a speed of the fan: a call, and the word that it is done."""
    speed = rng.randint(1, 99)
    key, speed = rng.choice((("set_fan", speed), ("set_fan", speed), ("fan_off", 0), ("fan_full", 100)))
    call = board.setting(rng, speed)
    return _called(asked.ask(rng, key, speed=speed), [call], f"The fan runs at {speed} percent now.")


def out_of_reach(rng: random.Random, asked: Wordings, has: Board) -> Exchange:
    """Asks for what no function there is for."""
    keys = [] if has.has("get_temperature") else ["ask_temperature"]
    keys += [] if has.has("set_fan") else ["set_fan", "fan_off", "fan_full"]
    sensor = board.SENSORS[rng.choice(tuple(board.SENSORS))]
    text = asked.ask(rng, rng.choice(keys), sensor=sensor, speed=rng.randint(1, 99))
    return Exchange(text, asked.answers["unknown"])


def _called(text: str, calls: list[Call], answer: str) -> list[Exchange]:
    return [
        Exchange(text, "\n".join(call.text for call in calls), calls=calls),
        Exchange("\n\n".join(call.result_text for call in calls), answer, results=calls),
    ]
