"""What boards compute in: as near to the truth as transformers' own bfloat16 is."""

import copy

import pytest
import torch

from gemma3n_appliance.model import native

from .conftest import Probe, distance

NUM_PROMPTS = 12
NUM_STEPS = 6


@pytest.fixture(scope="module")
def in_bfloat16(text_model):
    return copy.deepcopy(text_model).to(torch.bfloat16)


@pytest.fixture(scope="module")
def in_float32(in_bfloat16):
    """The same numbers, computed with exactly."""
    return copy.deepcopy(in_bfloat16).float()


@pytest.fixture(scope="module")
def probe(in_bfloat16, tmp_path_factory) -> Probe:
    directory = tmp_path_factory.mktemp("bfloat16")
    in_bfloat16.save_pretrained(directory)
    parts = native.load(directory, in_bfloat16.config, torch.bfloat16, torch.device("cpu"))
    return Probe(parts)


@torch.inference_mode()
def test_it_is_about_as_far_from_float32_as_transformers(probe, in_bfloat16, in_float32, prompt):
    """By the mean over many steps: one alone may fall on either side."""
    ours, theirs = [], []
    for seed in range(NUM_PROMPTS):
        token_ids = prompt(seed, 5 + 7 * seed)
        token_ids.append(probe.start(0, token_ids, chunk=40))
        for _ in range(NUM_STEPS):
            asked = torch.tensor([token_ids])
            wanted = in_float32(asked).logits[0, -1]
            theirs.append(distance(in_bfloat16(asked).logits[0, -1], wanted))
            token_ids += probe.runner.decode([0])
            ours.append(distance(probe.logits[0], wanted))
        probe.runner.release(0)
    assert sum(ours) <= 1.5 * sum(theirs)
