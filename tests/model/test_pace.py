"""How far a host runs ahead of its GPU."""

import pytest
import torch

from gemma3n_appliance.model.pace import Pace


@pytest.fixture
def told(monkeypatch):
    """What was asked of CUDA's events, which are numbered as they are made."""
    told: list[str] = []

    class Event:
        made = 0

        def __init__(self, *, blocking: bool) -> None:
            assert blocking  # it would keep a core busy
            Event.made += 1
            self._number = Event.made

        def record(self) -> None:
            told.append(f"record {self._number}")

        def synchronize(self) -> None:
            told.append(f"wait for {self._number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return told


def test_a_host_is_a_chunk_ahead_of_its_gpu_and_no_more(told):
    pace = Pace(torch.device("cuda"))
    for _ in range(3):
        pace.queued()
    assert told == ["record 1", "record 2", "wait for 1", "record 3", "wait for 2"]


def test_without_a_gpu_nobody_is_ahead(told):
    Pace(torch.device("cpu")).queued()
    assert not told
