"""Decodes one clip: mono, 16 kHz, and never more of it than the encoder hears."""

from io import BytesIO

import numpy as np
import soundfile
import soxr
import structlog

from ..engine.request import Audio
from ..errors import InvalidRequestError

log = structlog.get_logger(__name__)

SAMPLE_RATE = 16_000
MAX_SECONDS = 30
FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "MP3", "MPEG"})

_MIN_RATE, _MAX_RATE = 1_000, 192_000
_MAX_CHANNELS = 8
# Encoders pad a clip: half a second more than the limit is theirs, and is cut off.
_TOLERANCE_SECONDS = 0.5
# Shorter clips give the encoder not one frame; silence is added up to this length.
_MIN_SAMPLES = 1_600


def decode(content: bytes, param: str) -> Audio:
    """Returns the clip.

    Raises:
        InvalidRequestError: not wav, mp3 or flac, broken, empty, longer than 30 s, or not finite.
    """
    try:
        with soundfile.SoundFile(BytesIO(content)) as clip:
            _check_header(clip, param)
            mono = _read_mono(clip, param)
            rate = clip.samplerate
    except (InvalidRequestError, MemoryError):
        raise
    except Exception as error:  # libsndfile's own errors, and what broken headers make of its wrapper
        log.debug("broken_audio", param=param, error=repr(error))
        raise _refusal("is broken, or not wav, mp3 or flac", param) from error
    _check_length(mono, rate, param)
    samples = _at_16_khz(mono, rate)
    _check_finite(samples, param)
    return Audio(samples.astype("<f4").tobytes())


def _check_header(clip: soundfile.SoundFile, param: str) -> None:
    if clip.format not in FORMATS:
        raise _refusal(f"holds {clip.format}: send wav, mp3 or flac", param)
    if not _MIN_RATE <= clip.samplerate <= _MAX_RATE:
        raise _refusal(f"has {clip.samplerate} samples a second: send {SAMPLE_RATE}", param)
    if clip.channels > _MAX_CHANNELS:
        raise _refusal(f"has {clip.channels} channels: send one", param)


def _read_mono(clip: soundfile.SoundFile, param: str) -> np.ndarray:
    """Reads second by second, whatever length the header claims, and stops when there is too much."""
    blocks = []
    for _ in range(MAX_SECONDS + 1):
        block = clip.read(clip.samplerate, dtype="float32", always_2d=True)
        if not len(block):
            break
        _check_finite(block, param)
        # Samples near float32's end overflow in their own sum, and in the resampler unless they are clipped.
        mono = block.mean(axis=1, dtype=np.float64)
        blocks.append(np.clip(mono, -1.0, 1.0).astype(np.float32))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _check_length(mono: np.ndarray, rate: int, param: str) -> None:
    if not len(mono):
        raise _refusal("holds no sound", param)
    if len(mono) > (MAX_SECONDS + _TOLERANCE_SECONDS) * rate:
        raise _refusal(f"is longer than {MAX_SECONDS} s, all that the model hears: send it in parts", param)


def _check_finite(samples: np.ndarray, param: str) -> None:
    if not np.isfinite(samples).all():
        raise _refusal("has samples that are not numbers (NaN or infinity)", param)


def _at_16_khz(mono: np.ndarray, rate: int) -> np.ndarray:
    samples = soxr.resample(mono, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else mono
    samples = np.clip(samples[: MAX_SECONDS * SAMPLE_RATE], -1.0, 1.0)
    return np.pad(samples, (0, max(0, _MIN_SAMPLES - len(samples))))


def _refusal(what: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' {what}.", param=param)
