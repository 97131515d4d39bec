"""What transformers' own model says, which is the same whichever of our engines is asked the same."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3nForCausalLM

Oracle = Callable[..., Any]


def _remembered(answer: Oracle) -> Oracle:
    """Has it asked once for each model, text and set of options; a model stays while it is remembered."""
    known: dict[tuple[Gemma3nForCausalLM, tuple[int, ...], str], Any] = {}

    @functools.wraps(answer)
    def ask(model: Gemma3nForCausalLM, token_ids: Sequence[int], **options: Any) -> Any:
        key = model, tuple(token_ids), repr(options)
        if key not in known:
            known[key] = answer(model, torch.tensor([token_ids]), **options)
        return known[key]

    return ask


@_remembered
@torch.no_grad()
def logits(model: Gemma3nForCausalLM, given: Tensor) -> Tensor:
    """Returns those after every position, ``[length, vocab]``."""
    return model(given).logits[0]


@_remembered
def generated(model: Gemma3nForCausalLM, given: Tensor, **options: Any) -> list[int]:
    """Returns what it adds, the likeliest token each time."""
    made = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, **options)
    return made[0, given.shape[1] :].tolist()
