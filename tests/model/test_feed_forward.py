"""Which way a layer's feed-forward network takes, and that both end in the same."""

import pytest
import torch

from gemma3n_appliance.model import feed_forward
from gemma3n_appliance.model.feed_forward import FeedForward
from gemma3n_appliance.model.linear import Dense
from gemma3n_appliance.model.quantize import linear, quantize

from .conftest import distance

HIDDEN, SMALL, LARGE, HUGE = 64, 128, 2048, 32768
# As it is served, before other tests' fixture lowers it.
FEW = {name: getattr(feed_forward, name) for name in ("_BYTES_OF_DOWN", "_BYTES_OF_BOTH")}


class Weights:
    """Random ones."""

    def __init__(self, num_neurons: int, dtype: torch.dtype, bits: str | None = None) -> None:
        self._bits = bits
        by_rows, by_columns = (num_neurons, HIDDEN), (HIDDEN, num_neurons)
        shapes = {"gate_proj": by_rows, "up_proj": by_rows, "down_proj": by_columns}
        generator = torch.Generator().manual_seed(1)
        self._tensors = {
            f"{name}.weight": torch.randn(shape, generator=generator).to(dtype)
            for name, shape in shapes.items()
        }

    def __call__(self, name):
        return self._tensors[name]

    def linear(self, _name, make, *, fine=False):
        return linear(quantize(make(), self._bits)) if self._bits else Dense(make())


@pytest.fixture
def looked_for(monkeypatch):
    """How many tokens' live neurons were looked for."""
    tokens = []

    def noting(feed):
        return lambda live, x, gates: tokens.extend(x) or feed(live, x, gates)

    for way in (feed_forward._LiveNeurons, feed_forward._LiveBytes):
        monkeypatch.setattr(way, "feed", noting(way.feed))
    return tokens


@pytest.fixture(autouse=True)
def as_it_is_served(monkeypatch):
    for name, few in FEW.items():
        monkeypatch.setattr(feed_forward, name, few)


@pytest.mark.parametrize(
    ("num_neurons", "dtype", "has_bfloat16", "num_tokens", "wanted"),
    [
        (LARGE, torch.float32, False, 1, 1),
        (LARGE, torch.float32, False, 2, 0),
        (HUGE, torch.float32, False, 8, 8),
        (HUGE, torch.float32, False, 9, 0),
        (SMALL, torch.float32, False, 1, 0),
        (HUGE, torch.bfloat16, True, 8, 8),
        (LARGE, torch.bfloat16, True, 1, 0),
        (HUGE, torch.bfloat16, False, 1, 0),
    ],
)
@torch.inference_mode()
def test_live_neurons_are_looked_for_where_that_is_quicker(
    monkeypatch, looked_for, num_neurons, dtype, has_bfloat16, num_tokens, wanted
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bfloat16)
    x = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(2)).to(dtype)
    weights = Weights(num_neurons, dtype)
    found = FeedForward(weights, 0.95, dtype)(x)
    assert len(looked_for) == wanted
    monkeypatch.setattr(feed_forward, "_live_neurons", lambda *_: None)
    wanted_numbers = FeedForward(weights, 0.95, dtype)(x).float()
    assert distance(found, wanted_numbers) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize(
    ("num_neurons", "bits", "num_tokens", "wanted"),
    [
        (HUGE, "int8", 1, 1),
        (HUGE, "int8", 8, 8),
        (HUGE, "int8", 9, 0),
        (LARGE, "int8", 1, 0),
        (HUGE, "int4", 1, 0),
    ],
)
@torch.inference_mode()
def test_bytes_of_neurons_at_rest_are_not_read_where_that_is_quicker(
    monkeypatch, looked_for, num_neurons, bits, num_tokens, wanted
):
    x = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(2))
    weights = Weights(num_neurons, torch.float32, bits)
    found = FeedForward(weights, 0.95, torch.float32)(x)
    assert len(looked_for) == wanted
    monkeypatch.setattr(feed_forward, "_live_neurons", lambda *_: None)
    assert distance(found, FeedForward(weights, 0.95, torch.float32)(x)) < 5e-3


@pytest.mark.parametrize("bits", [None, "int8"])
@torch.inference_mode()
def test_where_all_neurons_rest_nothing_comes_of_it(looked_for, bits):
    weights = Weights(HUGE, torch.float32, bits)
    assert torch.equal(
        FeedForward(weights, 0.95, torch.float32)(torch.zeros(1, HIDDEN)), torch.zeros(1, HIDDEN)
    )
    assert looked_for
