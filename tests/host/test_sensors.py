"""What a board tells of itself, as a Jetson's kernel writes it."""

import pytest

from gemma3n_appliance.host import sensors
from gemma3n_appliance.protocol.reading import Reading


@pytest.fixture
def system(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(sensors, "THERMAL", tmp_path / "thermal")
    monkeypatch.setattr(sensors, "MONITORS", tmp_path / "hwmon")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_a_board_without_sensors_tells_nothing(system):
    assert list(sensors.readings()) == []


def test_memory_temperatures_and_power_are_read(system):
    system(
        meminfo="MemTotal:        7990000 kB\nMemFree: 1 kB\nMemAvailable:    2000000 kB\n",
        thermal__thermal_zone0__type="cpu-thermal\n",
        thermal__thermal_zone0__temp="48531\n",
        thermal__thermal_zone1__temp="-5000\n",
        hwmon__hwmon1__in1_label="VDD_IN\n",
        hwmon__hwmon1__in1_input="5000\n",
        hwmon__hwmon1__curr1_input="1200\n",
    )
    assert [(r.name, r.unit, r.value, r.sensor) for r in sensors.readings()] == [
        ("memory_total", "bytes", 7_990_000 * 1024.0, None),
        ("memory_available", "bytes", 2_000_000 * 1024.0, None),
        ("temperature", "celsius", 48.531, "cpu-thermal"),
        ("temperature", "celsius", -5.0, "thermal_zone1"),
        ("power", "watts", 6.0, "VDD_IN"),
    ]


def test_sensors_of_one_name_are_told_apart(system):
    for i in range(2):
        system(
            **{
                f"thermal__thermal_zone{i}__type": "acpitz",
                f"thermal__thermal_zone{i}__temp": "1000",
                f"hwmon__hwmon{i}__in1_label": "VDD",
                f"hwmon__hwmon{i}__in1_input": "1",
                f"hwmon__hwmon{i}__curr1_input": "1",
            }
        )
    assert [reading.sensor for reading in sensors.readings()] == [
        "acpitz",
        "acpitz thermal_zone1",
        "VDD",
        "VDD hwmon1-1",
    ]


def test_what_cannot_be_read_is_left_out(system, tmp_path):
    system(
        thermal__thermal_zone0__type="off",
        thermal__thermal_zone1__temp="N/A",
        hwmon__hwmon0__in1_label="NC",
        hwmon__hwmon0__in1_input="5000",
        hwmon__hwmon1__in2_label="VDD",
        hwmon__hwmon1__in2_input="",
        hwmon__hwmon1__curr2_input="1",
    )
    (tmp_path / "thermal" / "thermal_zone0" / "temp").mkdir()
    assert list(sensors.readings()) == []


def test_this_machine_s_memory_is_read():
    assert all(isinstance(reading, Reading) for reading in sensors.readings())
    values = {reading.name: reading.value for reading in sensors.memory()}
    assert 0 < values["memory_available"] <= values["memory_total"]
