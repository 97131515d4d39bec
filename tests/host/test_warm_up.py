from pathlib import Path

import pytest
import structlog

from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.host.warm_up import warm_up
from gemma3n_appliance.prompt.prompts import Prompts
from gemma3n_appliance.settings import Settings
from tests.api.speaker import Speaker
from tests.fakes import checkpoint


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    directory = checkpoint.write(tmp_path / "model")
    return Prompts(Settings(_env_file=None, model_name=str(directory)))


def paths(speaker: Speaker) -> list[str]:
    return [request.request_id for request in speaker.requests]


@pytest.mark.parametrize(
    ("senses", "expected"),
    [
        ({}, ["warm-up-text", "warm-up-image", "warm-up-audio"]),
        ({"has_vision": False}, ["warm-up-text", "warm-up-audio"]),
        ({"has_vision": False, "has_audio": False}, ["warm-up-text"]),
    ],
)
def test_every_sense_that_the_model_has_is_tried(prompts: Prompts, senses: dict, expected: list[str]):
    speaker = Speaker()
    warm_up(speaker.loaded(**senses), prompts, 64, Pulse(300))
    assert paths(speaker) == expected
    assert speaker.released.is_set()


class BlindSpeaker(Speaker):
    """Fails on pictures, and where it is told to on text."""

    fails_on_text = False

    def prefill(self, slot: int, max_tokens: int) -> int | None:
        if self.requests[-1].media or self.fails_on_text:
            raise MemoryError("too small")
        return super().prefill(slot, max_tokens)


def test_a_model_that_fails_on_pictures_still_serves_text(prompts: Prompts):
    speaker = BlindSpeaker()
    with structlog.testing.capture_logs() as logs:
        warm_up(speaker.loaded(), prompts, 64, Pulse(300))
    text, image, audio = "warm-up-text", "warm-up-image", "warm-up-audio"
    assert paths(speaker) == [text, image, text, audio, text]
    assert [line["path"] for line in logs if line["event"] == "warm_up_failed"] == ["image", "audio"]


def test_a_model_that_fails_on_text_does_not_serve(prompts: Prompts):
    speaker = BlindSpeaker()
    speaker.fails_on_text = True
    with pytest.raises(MemoryError):
        warm_up(speaker.loaded(), prompts, 64, Pulse(300))
    assert speaker.released.is_set()


def test_a_gpu_that_is_lost_on_a_picture_does_not_serve(prompts: Prompts):
    class LostSpeaker(BlindSpeaker):
        def prefill(self, slot: int, max_tokens: int) -> int | None:
            self.fails_on_text = self.fails_on_text or bool(self.requests[-1].media)
            return super().prefill(slot, max_tokens)

    with pytest.raises(MemoryError):
        warm_up(LostSpeaker().loaded(), prompts, 64, Pulse(300))
