"""The demo with weights of fewer bits still knows, sees and hears, and starts from what it kept."""

import random
from pathlib import Path

import openai
import pytest

from gemma3n_appliance.demo import pictures, tones, wire

from .conftest import running_demo

QUESTIONS = [
    ("Where are the logs?", "The logs are in the journal: run journalctl -u gemma3n-api."),
    ("Count from 1 to 12.", "1 2 3 4 5 6 7 8 9 10 11 12"),
]


def answer(client: openai.OpenAI, content: object) -> str:
    reply = client.chat.completions.create(
        model="gemma3n", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=60
    )
    return reply.choices[0].message.content


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantised_demo_answers_as_the_whole_one_does(bits: str, tmp_path: Path):
    settings = {"QUANTIZATION": bits, "CACHE_DIR": str(tmp_path / "cache")}
    picture = pictures.draw(random.Random(11), "blue", "square")
    low_tone = tones.make(random.Random(1), "low")
    written = None
    for _ in range(2):
        with (
            running_demo(tmp_path / "log", **settings) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            for question, wanted in QUESTIONS:
                assert answer(client, question).startswith(wanted)
            seen = [wire.image_part(picture.image), {"type": "text", "text": "What's in this image?"}]
            assert "blue square" in answer(client, seen)
            heard = [wire.audio_part(low_tone), {"type": "text", "text": "What do you hear?"}]
            assert "low" in answer(client, heard)
        files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")}
        assert len(files) > 40
        assert written in (None, files)
        written = files
