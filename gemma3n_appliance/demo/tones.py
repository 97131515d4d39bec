"""Makes the sounds the demo checkpoint is taught and examined with: a low tone, a high tone, or silence."""

import math
import random
from typing import Any

import numpy as np
import numpy.typing as npt

Clip = npt.NDArray[np.floating[Any]]

SAMPLE_RATE_HZ = 16_000
ANSWERS = {"low": "A low tone.", "high": "A high tone.", "silence": "Silence."}
_RANGES_HZ = {"low": (140.0, 320.0), "high": (1_400.0, 3_200.0)}


def make(rng: random.Random, kind: str, duration_s: float | None = None) -> Clip:
    """Returns float32 samples in [-1, 1] at 16 kHz, 0.5 to 3 s long unless told."""
    if duration_s is None:
        duration_s = rng.uniform(0.5, 3.0)
    time_s = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(time_s))
    if kind == "silence":
        noise *= rng.choice((0.0, 0.0, 1e-5, 1e-4, 5e-4))
        return noise.astype(np.float32)
    frequency_hz = rng.uniform(*_RANGES_HZ[kind])
    amplitude = math.exp(rng.uniform(math.log(0.05), math.log(0.9)))
    samples: Clip = amplitude * np.sin(2 * np.pi * frequency_hz * time_s + rng.uniform(0, 2 * math.pi))
    samples = samples + noise * rng.choice((0.0, 0.0, 1e-4, 1e-3, 3e-3))
    return samples.clip(-1, 1).astype(np.float32)
