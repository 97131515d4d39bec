"""What a sensor of the board reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """A value in a ``unit`` that Prometheus knows; of several sensors, ``sensor`` says which."""

    name: str
    unit: str
    what: str
    value: float
    sensor: str | None = None
