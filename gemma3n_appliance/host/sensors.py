"""What the board tells of its memory, temperatures and power; of what it does not tell there is nothing."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..protocol.reading import Reading

MEMORY = Path("/proc/meminfo")
THERMAL = Path("/sys/class/thermal")
MONITORS = Path("/sys/class/hwmon")


def readings() -> Iterator[Reading]:
    """Yields all there are; takes a millisecond, and reads nothing from a disk."""
    yield from memory()
    yield from temperatures()
    yield from power()


def memory() -> Iterator[Reading]:
    """Yields the board's memory, which a Jetson's GPU shares."""
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text_of(MEMORY), re.MULTILINE))
    for field, name in (("MemTotal", "memory_total"), ("MemAvailable", "memory_available")):
        if field in found:
            yield Reading(name, "bytes", f"The board's {field}.", int(found[field]) * 1024.0)


def temperatures() -> Iterator[Reading]:
    """Yields those of the thermal zones; some of a Jetson's are switched off, and cannot be read."""
    names: set[str] = set()
    for zone in sorted(THERMAL.glob("thermal_zone*")):
        if (milli_c := _number(zone / "temp")) is not None:
            sensor = _distinct(text_of(zone / "type").strip(), zone.name, names)
            yield Reading("temperature", "celsius", "Thermal zones.", milli_c / 1000, sensor)


def power() -> Iterator[Reading]:
    """Yields that of the rails that the board measures (Linux' hwmon; a Jetson has an INA3221)."""
    names: set[str] = set()
    for label in sorted(MONITORS.glob("hwmon*/in*_label")):
        rail = label.name.removeprefix("in").removesuffix("_label")
        milli_v = _number(label.with_name(f"in{rail}_input"))
        milli_a = _number(label.with_name(f"curr{rail}_input"))
        if milli_v is not None and milli_a is not None:
            sensor = _distinct(text_of(label).strip(), f"{label.parent.name}-{rail}", names)
            yield Reading("power", "watts", "Power rails.", milli_v * milli_a / 1e6, sensor)


def text_of(path: Path) -> str:
    """Returns a file's text, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _distinct(name: str, otherwise: str, names: set[str]) -> str:
    """Returns a sensor's name, with where it is if another has the same, and adds it to ``names``."""
    if not name:
        name = otherwise
    elif name in names:
        name = f"{name} {otherwise}"
    names.add(name)
    return name


def _number(path: Path) -> int | None:
    text = text_of(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
