"""What the engine is asked to do: token ids, media as plain bytes, and how to sample."""

from dataclasses import dataclass, field, replace

from .grammar import Grammar


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
    """How to choose the next token. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch those off.

    ``frequency_penalty`` and ``presence_penalty`` lower the logits of tokens generated so far, for each time
    and once, as OpenAI has them. ``repetition_penalty`` divides logits of what is in the prompt, too, or
    multiplies them where they are negative (arXiv:1909.05858, 4.1). ``logit_bias`` is added last.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def is_adjusted(self) -> bool:
        """Whether tokens are chosen from other logits than the model's own."""
        is_penalised = self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1.0
        return bool(is_penalised or self.logit_bias)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue, ``num_choices`` times.

    ``token_ids`` holds every soft-token position already (in Google's models 256 an image, 188 a clip);
    ``media`` lists what fills them, in order of appearance. ``max_tokens`` is at least 1 and fits the
    context; each choice has as many. ``num_top_logprobs`` is how many of the likeliest tokens to tell of
    besides the chosen one, at every step; None tells of none. ``grammar`` has the last word on every token.
    ``tools`` are the functions of which calls are told apart from text; the grammar keeps calls in form.
    ``first_choice`` is the number by which the reply knows the first of its choices.
    """

    request_id: str
    token_ids: tuple[int, ...] = field(repr=False)
    sampling: Sampling
    max_tokens: int
    media: tuple[Media, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    num_choices: int = 1
    num_top_logprobs: int | None = None
    grammar: Grammar | None = field(default=None, repr=False)
    tools: tuple[str, ...] = ()
    first_choice: int = 0

    def for_choice(self, choice: int) -> "GenerationRequest":
        """Returns what asks for one of the choices alone; their seeds are those that follow ``seed``."""
        seed = None if self.sampling.seed is None else self.sampling.seed + choice
        return replace(self, num_choices=1, sampling=replace(self.sampling, seed=seed))
