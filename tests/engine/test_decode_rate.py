import pytest

from gemma3n_appliance.engine.decode_rate import NUM_STEPS, DecodeRate


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], None),
        ([(1, 0.0)], None),  # no clock is that exact
        ([(1, 0.05)], 20),
        ([(4, 0.1)], 40),
        ([(1, 0.05), (4, 0.15)], 25),
        ([(1, 10.0)] + [(1, 0.05)] * NUM_STEPS, 20),
    ],
)
def test_the_rate_is_that_of_the_last_steps(steps, expected):
    rate = DecodeRate()
    for num_tokens, step_s in steps:
        rate.record(num_tokens, step_s)
    assert rate.tokens_per_s == (None if expected is None else pytest.approx(expected))
