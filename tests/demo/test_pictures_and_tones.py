import random

import numpy as np
import pytest

from gemma3n_appliance.demo import pictures, tones


@pytest.mark.parametrize("shape", pictures.SHAPES)
@pytest.mark.parametrize("colour", pictures.COLOURS)
def test_a_picture_shows_its_colour_on_a_light_ground(colour, shape):
    picture = pictures.draw(random.Random(1), colour, shape)
    pixels = np.asarray(picture.image).reshape(-1, 3).astype(int)
    nearest = min(np.abs(pixels - anchor).sum(1).min() for anchor in pictures.COLOURS[colour])
    assert nearest < 60
    assert np.median(pixels, axis=0).min() > 200 or picture.image.size[0] < 300


@pytest.mark.parametrize(("kind", "low_hz", "high_hz"), [("low", 140, 320), ("high", 1400, 3200)])
def test_a_tone_has_its_pitch(kind, low_hz, high_hz):
    clip = tones.make(random.Random(2), kind, 1.0)
    loudest_hz = np.abs(np.fft.rfft(clip)).argmax() * tones.SAMPLE_RATE_HZ / len(clip)
    assert low_hz <= loudest_hz <= high_hz


def test_silence_is_silent():
    assert np.abs(tones.make(random.Random(3), "silence")).max() < 0.01


def test_the_same_seed_draws_the_same_picture():
    first, second = (pictures.draw(random.Random(4)) for _ in range(2))
    assert first.thing == second.thing
    assert first.image.tobytes() == second.image.tobytes()
