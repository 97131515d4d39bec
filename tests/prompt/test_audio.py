import struct

import numpy as np
import pytest
import soundfile

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.prompt import audio
from tests.fakes.media import clip, tone


def samples(content: bytes) -> np.ndarray:
    return np.frombuffer(audio.decode(content, "p").samples, "<f4")


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        audio.decode(content, "p")
    assert (refused.value.status, refused.value.param) == (400, "p")
    return refused.value.message


def loudest_hertz(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "RF64"])
def test_every_format_is_read(form):
    wave = samples(tone(form=form))
    assert len(wave) == pytest.approx(16_000, abs=2_500)
    assert loudest_hertz(wave) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_without_a_change_of_pitch(rate):
    wave = samples(tone(rate=rate, seconds=2))
    assert len(wave) == pytest.approx(32_000, abs=2)
    assert loudest_hertz(wave) == pytest.approx(440, abs=1)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.02)


def test_what_the_lower_rate_cannot_hold_does_not_fold_back():
    wave = samples(tone(rate=48_000, hertz=10_000))
    assert np.abs(wave[1_000:-1_000]).max() < 0.001


def test_channels_are_mixed():
    left = np.stack([np.ones(16_000) * 0.5, np.zeros(16_000)], axis=1)
    assert samples(clip(left)) == pytest.approx(0.25, abs=0.001)
    assert len(samples(tone(channels=2))) == 16_000


def test_samples_beyond_full_scale_are_clipped():
    assert samples(clip(np.full(16_000, 3.0), subtype="FLOAT")).max() == 1.0


def test_a_very_short_clip_is_made_long_enough_to_be_heard():
    assert len(samples(clip(np.zeros(1)))) == 1_600


def test_thirty_seconds_are_taken_and_more_are_not():
    assert len(samples(tone(seconds=30))) == 480_000
    assert len(samples(tone(seconds=30.3))) == 480_000
    assert "longer than 30 s" in refusal(tone(seconds=31, rate=8_000))


def test_hours_of_silence_are_refused_after_half_a_minute_of_them(monkeypatch):
    read, seconds = soundfile.SoundFile.read, []

    def counted(file, *args, **options):
        block = read(file, *args, **options)
        seconds.append(len(block) / file.samplerate)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert "longer than 30 s" in refusal(clip(np.zeros(8_000 * 3600 * 2, np.int16), 8_000, "FLAC"))
    assert sum(seconds) == 31


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(value):
    wave = np.zeros(16_000)
    wave[5_000] = value
    assert "NaN" in refusal(clip(wave, subtype="FLOAT"))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_at_the_end_of_the_number_range_are_clipped_before_anything_is_made_of_them(rate, channels):
    loud = np.float32(3e38) * np.sign(np.sin(np.arange(rate)))
    wave = samples(clip(np.repeat(loud[:, None], channels, axis=1), rate, subtype="FLOAT"))
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() == 1.0


def test_what_a_resampler_makes_no_number_of_is_refused(monkeypatch):
    monkeypatch.setattr(audio.soxr, "resample", lambda wave, *_: wave * np.float32(np.nan))
    assert "NaN" in refusal(tone(rate=8_000))


def with_wav_rate(rate: int) -> bytes:
    wave = bytearray(tone())
    wave[24:28] = struct.pack("<I", rate)
    return bytes(wave)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (clip(np.zeros(0)), "no sound"),
        (tone()[:20], "broken"),
        (b"\0" * 1_000, "broken"),
        (b"RIFF", "broken"),
        (tone(form="OGG"), "holds OGG"),
        (tone(form="AIFF"), "holds AIFF"),
        (tone(channels=9, seconds=0.1), "9 channels"),
        (with_wav_rate(2**31 - 1), "samples a second"),
        (with_wav_rate(10), "samples a second"),
    ],
)
def test_what_is_no_clip_is_refused(content, said):
    assert said in refusal(content)


@pytest.mark.parametrize(("form", "share", "fewest"), [("WAV", 0.5, 7_980), ("MP3", 0.75, 6_000)])
def test_a_truncated_clip_is_heard_as_far_as_it_goes(form, share, fewest):
    whole = tone(form=form)
    assert fewest < len(samples(whole[: int(len(whole) * share)])) < 16_000 * (share + 0.25)


@pytest.mark.parametrize(("form", "share"), [("FLAC", 0.5), ("FLAC", 0.99), ("MP3", 0.2), ("WAV", 0.001)])
def test_a_truncated_clip_of_which_nothing_can_be_heard_is_refused(form, share):
    whole = tone(form=form)
    assert "is broken" in refusal(whole[: int(len(whole) * share)])
