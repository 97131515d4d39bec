"""Which tokens can come out, and how often."""

import math
from collections import Counter

import pytest
import torch

from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.model.sampler import Chooser, Scores, sample

# Softmax of these at temperature 1 is 0.1, 0.5, 0.15 and 0.25.
LOGITS = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()


def chooser(sampling: Sampling, prompt: tuple[int, ...] = (0,)) -> Chooser:
    return Chooser.of(GenerationRequest("r", prompt, sampling, 10))


def drawn(sampling: Sampling, times: int = 2000) -> dict[int, float]:
    """The share of each token over many draws."""
    rules = chooser(sampling)
    counts = Counter(sample(LOGITS, [rules])[0] for _ in range(times))
    return {token: count / times for token, count in counts.items()}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, seed=1), {0: 0.1, 1: 0.5, 2: 0.15, 3: 0.25}),
        (Sampling(0.0), {1: 1.0}),
        (Sampling(1e-6, seed=1), {1: 1.0}),
        (Sampling(5e-324, seed=1), {1: 1.0}),
        (Sampling(1.0, top_k=1, seed=1), {1: 1.0}),
        (Sampling(1.0, top_k=2, seed=1), {1: 2 / 3, 3: 1 / 3}),
        (Sampling(1.0, top_k=9, seed=1), {0: 0.1, 1: 0.5, 2: 0.15, 3: 0.25}),
        (Sampling(1.0, top_p=0.0, seed=1), {1: 1.0}),
        (Sampling(1.0, top_p=0.45, seed=1), {1: 1.0}),
        (Sampling(1.0, top_p=0.6, seed=1), {1: 2 / 3, 3: 1 / 3}),
        # The nucleus is taken of what top_k leaves, here 5/9, 2.5/9 and 1.5/9.
        (Sampling(1.0, top_k=3, top_p=0.9, seed=1), {1: 5 / 9, 3: 2.5 / 9, 2: 1.5 / 9}),
        (Sampling(1.0, top_k=3, top_p=0.8, seed=1), {1: 2 / 3, 3: 1 / 3}),
        (Sampling(1.0, min_p=0.4, seed=1), {1: 2 / 3, 3: 1 / 3}),
        (Sampling(1.0, min_p=1.0, seed=1), {1: 1.0}),
        (Sampling(0.5, top_k=2, seed=1), {1: 0.8, 3: 0.2}),
    ],
)
def test_tokens_come_out_as_often_as_the_rules_say(sampling, expected):
    shares = drawn(sampling)
    assert shares.keys() == expected.keys()
    for token, share in expected.items():
        assert math.isclose(shares[token], share, abs_tol=0.03)


def test_every_row_goes_by_its_own_rules():
    rules = [Sampling(0.0), Sampling(1.0, top_k=1), Sampling(1.0, seed=3), Sampling(2.0, top_p=0.0)]
    alone = chooser(rules[2])
    choosers = [chooser(each) for each in rules]
    for _ in range(50):
        greedy, best, seeded, narrow = sample(LOGITS.expand(4, -1), choosers)
        assert (greedy, best, narrow) == (1, 1, 1)
        assert [seeded] == sample(LOGITS, [alone])


@pytest.mark.parametrize("seed", [0, -1, 2**64, -(2**63)])
def test_any_whole_number_is_a_seed(seed):
    draws = [sample(LOGITS, [chooser(Sampling(1.0, seed=seed))]) for _ in range(2)]
    assert draws[0] == draws[1]


def test_equal_logits_are_told_apart_the_same_way_in_any_batch():
    tied = torch.zeros(1, 5000)
    others = torch.randn(3, 5000)
    for seed in range(20):
        sampling = Sampling(1.0, top_k=64, seed=seed)
        alone = sample(tied, [chooser(sampling)])
        batch = [chooser(Sampling(1.0, top_k=k)) for k in (1, 5000, 40)]
        assert sample(torch.cat([others, tied]), [*batch, chooser(sampling)])[3:] == alone


def test_a_row_of_nan_harms_no_other_row():
    logits = torch.cat([LOGITS, torch.full_like(LOGITS, math.nan)])
    choosers = [chooser(Sampling(1.0, top_k=1)), chooser(Sampling(1.0, top_p=0.9, min_p=0.1))]
    first, other = sample(logits, choosers)
    assert first == 1
    assert 0 <= other < 4


def adjusted(sampling: Sampling, generated: list[int], prompt: tuple[int, ...] = (0,)) -> list[float]:
    """Logits 1, -2, 3, 0.5 as the sampler sees them."""
    logits = torch.tensor([1.0, -2.0, 3.0, 0.5])
    adjustment = chooser(sampling, prompt).adjustment
    for token_id in generated:
        adjustment.note(token_id)
    adjustment.apply(logits)
    return logits.tolist()


@pytest.mark.parametrize(
    ("rules", "generated", "expected"),
    [
        ({"frequency_penalty": 0.5}, [], [1, -2, 3, 0.5]),
        ({"frequency_penalty": 0.5}, [2, 1, 2], [1, -2.5, 2, 0.5]),
        ({"presence_penalty": 0.5}, [2, 1, 2], [1, -2.5, 2.5, 0.5]),
        ({"frequency_penalty": -1.0, "presence_penalty": 0.25}, [3, 3], [1, -2, 3, 2.25]),
        ({"repetition_penalty": 2.0}, [], [0.5, -2, 3, 0.5]),
        ({"repetition_penalty": 2.0}, [1, 2, 2], [0.5, -4, 1.5, 0.5]),
        ({"logit_bias": ((1, 100.0), (3, -1.5))}, [1], [1, 98, 3, -1]),
        (
            {"repetition_penalty": 2.0, "presence_penalty": 1.0, "logit_bias": ((1, 5.0),)},
            [1],
            [0.5, 0, 3, 0.5],
        ),
    ],
)
def test_penalties_and_biases_change_the_logits_they_are_about(rules, generated, expected):
    assert adjusted(Sampling(1.0, **rules), generated) == expected


def test_an_adjustment_changes_its_own_row_and_nothing_that_is_given():
    logits = LOGITS.repeat(3, 1)
    choosers = [chooser(Sampling(0.0, logit_bias=((row, 50.0),) if row else ())) for row in (0, 2, 3)]
    assert sample(logits, choosers) == [1, 2, 3]
    assert torch.equal(logits, LOGITS.repeat(3, 1))


def test_logprobs_are_of_the_chosen_token_and_of_the_likeliest():
    logits = torch.cat([LOGITS, LOGITS + 7, LOGITS])
    first, second, third = Scores(logits, [2, 20, 0]).of([0, 1, 1])
    assert math.exp(first.chosen) == pytest.approx(0.1)
    assert third.top == ()
    assert [token_id for token_id, _ in first.top] == [1, 3]
    assert [token_id for token_id, _ in second.top] == [1, 3, 2, 0]
    assert sum(math.exp(each) for _, each in second.top) == pytest.approx(1.0)


def test_seeds_of_either_sign_are_seeds_of_their_own():
    rules = [chooser(Sampling(1.0, seed=seed)).random.random() for seed in (1, -1)]
    assert rules[0] != rules[1]
