"""What the engine is asked to do: token ids, media as plain bytes, and how to sample."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded picture: ``rgb`` holds ``height * width * 3`` bytes, row by row."""

    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Audio:
    """A decoded clip: mono float32 samples, little endian, in [-1, 1], 16 kHz."""

    samples: bytes = field(repr=False)


Media = Image | Audio


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch those off."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue.

    ``token_ids`` holds every soft-token position already (in Google's models 256 an image, 188 a clip);
    ``media`` lists what fills them, in order of appearance. ``max_tokens`` is at least 1 and fits the
    context.
    """

    request_id: str
    token_ids: tuple[int, ...] = field(repr=False)
    sampling: Sampling
    max_tokens: int
    media: tuple[Media, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
