"""Exchanges in which the demo checkpoint calls a board's functions, and answers from what they return."""

import random
from collections.abc import Callable

from ..engine.tool_calls import SEPARATOR
from . import board
from .board import Call, Toolset
from .conversations import Exchange, Wordings

Maker = Callable[[random.Random, Wordings], list[Exchange]]


def temperature(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks how hot a part is: a call, and the answer from its result."""
    sensor = rng.choice(tuple(board.SENSORS))
    call, degrees = board.reading(rng, sensor)
    text = asked.ask(rng, "ask_temperature", sensor=board.SENSORS[sensor])
    return _with_results(text, [call], f"The {board.SENSORS[sensor]} is at {degrees} degrees.")


def two_temperatures(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks how hot two parts are: two calls at once, and one answer."""
    first, second = rng.sample(tuple(board.SENSORS), 2)
    (call, degrees), (other_call, other_degrees) = board.reading(rng, first), board.reading(rng, second)
    part, other_part = board.SENSORS[first], board.SENSORS[second]
    text = asked.ask(rng, "ask_two_temperatures", first=part, second=other_part)
    answer = f"The {part} is at {degrees} degrees and the {other_part} is at {other_degrees} degrees."
    return _with_results(text, [call, other_call], answer)


def fan(rng: random.Random, asked: Wordings) -> list[Exchange]:
    """Asks for a speed of the fan: a call, and the word that it is done."""
    speed = rng.randint(1, 99)
    key, speed = rng.choice((("set_fan", speed), ("set_fan", speed), ("fan_off", 0), ("fan_full", 100)))
    call = board.setting(rng, speed)
    return _with_results(asked.ask(rng, key, speed=speed), [call], f"The fan runs at {speed} percent now.")


def makers(toolset: Toolset) -> list[Maker]:
    """Returns what asks for one call, by the functions that there are."""
    by_function: dict[str, Maker] = {"get_temperature": temperature, "set_fan": fan}
    return [maker for name, maker in by_function.items() if toolset.includes(name)]


def out_of_reach(rng: random.Random, asked: Wordings, toolset: Toolset) -> Exchange:
    """Asks for what no function of ``toolset`` does; it must lack one."""
    keys = [] if toolset.includes("get_temperature") else ["ask_temperature"]
    keys += [] if toolset.includes("set_fan") else ["set_fan", "fan_off", "fan_full"]
    sensor = board.SENSORS[rng.choice(tuple(board.SENSORS))]
    text = asked.ask(rng, rng.choice(keys), sensor=sensor, speed=rng.randint(1, 99))
    return Exchange(text, asked.answers["unknown"])


def _with_results(text: str, calls: list[Call], answer: str) -> list[Exchange]:
    return [
        Exchange(text, SEPARATOR.join(call.text for call in calls), calls=calls),
        Exchange("\n\n".join(call.result_text for call in calls), answer, results=calls),
    ]
