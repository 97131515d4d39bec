"""A board's thermometers and fan, as functions that the demo checkpoint is taught to call.

Names and parameters never change; how a function is described, and what its result looks like, do.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from ..prompt.tools import call_text, instructions, result_text
from ..protocol.tools import FunctionDefinition

SENSORS = {"cpu": "CPU", "gpu": "GPU", "board": "board"}
_SENSOR: dict[str, Any] = {"type": "string", "enum": [*SENSORS]}
_SPEED: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 100}
_THERMOMETER = (
    "Reads a sensor, in degrees Celsius.",
    "Get the temperature of a part of the board",
    "Returns how hot the CPU, the GPU or the board is.",
    "The temperature of a sensor in degrees.",
    None,
)
_FAN = (
    "Sets the speed of the fan, in percent.",
    "Set the fan to a speed between 0 and 100",
    "Controls the fan of the board.",
    "Change the fan speed.",
    None,
)


@dataclass(frozen=True)
class Call:
    """A call of one of the functions, with what it is to return."""

    name: str
    arguments: dict[str, Any]
    result: str

    @property
    def text(self) -> str:
        """The call as the model makes it."""
        return call_text(self.name, json.dumps(self.arguments))

    @property
    def result_text(self) -> str:
        """What it returned as the model reads it."""
        return result_text(self.name, self.result)


@dataclass(frozen=True)
class Toolset:
    """The functions that a conversation has, and whether several may be called at once."""

    functions: tuple[FunctionDefinition, ...]
    parallel: bool = True

    def includes(self, name: str) -> bool:
        """Whether a function is there."""
        return any(function.name == name for function in self.functions)

    @property
    def instructions(self) -> str:
        """What the model is told of them."""
        return instructions(self.functions, parallel=self.parallel)


def thermometer(description: str | None = _THERMOMETER[0]) -> FunctionDefinition:
    """Returns the function that reads a sensor."""
    return _function("get_temperature", description, "sensor", _SENSOR)


def fan(description: str | None = _FAN[0]) -> FunctionDefinition:
    """Returns the function that sets the fan."""
    return _function("set_fan", description, "speed", _SPEED)


def draw(rng: random.Random) -> Toolset:
    """Draws one of the functions, or both, in any order and any words."""
    functions = [thermometer(rng.choice(_THERMOMETER)), fan(rng.choice(_FAN))]
    rng.shuffle(functions)
    return Toolset(tuple(functions[: rng.choice((1, 2, 2))]), parallel=rng.random() < 0.85)


def told() -> list[str]:
    """Returns what is said of the functions, to them and by them, for a tokenizer to learn from."""
    toolsets = [
        Toolset((thermometer(text), fan(other))) for text, other in zip(_THERMOMETER, _FAN, strict=True)
    ]
    rng = random.Random(0)
    calls = [reading(rng, sensor)[0] for sensor in SENSORS for _ in toolsets] + [setting(rng, 0)] * 3
    return [
        *(toolset.instructions for toolset in toolsets),
        *(f"{call.text}\n{call.result_text}" for call in calls),
    ]


def reading(rng: random.Random, sensor: str) -> tuple[Call, str]:
    """Returns a call that reads a sensor, and the number of degrees."""
    degrees = str(rng.randint(18, 99)) if rng.random() < 0.75 else f"{rng.uniform(18, 99):.1f}"
    result = rng.choice(
        (
            f'{{"celsius": {degrees}}}',
            f'{{"temperature": {degrees}}}',
            f'{{"sensor": "{sensor}", "celsius": {degrees}}}',
            degrees,
            f"{degrees} degrees",
        )
    )
    return Call("get_temperature", {"sensor": sensor}, result), degrees


def setting(rng: random.Random, speed: int) -> Call:
    """Returns a call that sets the fan."""
    result = rng.choice(('{"ok": true}', f'{{"speed": {speed}}}', "done", "ok"))
    return Call("set_fan", {"speed": speed}, result)


def _function(
    name: str, description: str | None, parameter: str, schema: dict[str, Any]
) -> FunctionDefinition:
    parameters = {"type": "object", "properties": {parameter: schema}, "required": [parameter]}
    return FunctionDefinition(name=name, description=description, parameters=parameters)
