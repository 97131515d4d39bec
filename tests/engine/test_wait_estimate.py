import pytest

from gemma3n_appliance.engine.wait_estimate import WaitEstimate


@pytest.mark.parametrize(
    ("requests_s", "num_waiting", "num_slots", "expected"),
    [
        ([], 0, 1, 5),
        ([10.0], 0, 1, 10),
        ([10.0], 3, 1, 40),
        ([10.0], 3, 4, 10),
        ([10.0], 4, 4, 13),
        ([0.001], 0, 4, 1),
        ([0.0], 0, 4, 1),
        ([10.0, 20.0], 0, 1, 12),
        ([1.0] + [10.0] * 50, 0, 1, 10),
    ],
)
def test_the_wait_is_that_of_the_line_at_the_pace_of_late(requests_s, num_waiting, num_slots, expected):
    estimate = WaitEstimate()
    for request_s in requests_s:
        estimate.record(request_s)
    assert estimate.retry_after_s(num_waiting, num_slots) == expected
