"""Which way a layer's feed-forward network takes, and that both end in the same."""

import pytest
import torch

from gemma3n_appliance.model import feed_forward
from gemma3n_appliance.model.feed_forward import FeedForward
from gemma3n_appliance.model.linear import Dense

from .conftest import distance

HIDDEN, SMALL, LARGE = 64, 128, 2048
FEW_WEIGHTS = feed_forward._FEW_WEIGHTS  # as it is served, before other tests' fixture lowers it


class Weights:
    """Random ones."""

    def __init__(self, num_neurons: int, dtype: torch.dtype) -> None:
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
        return Dense(make())


@pytest.fixture
def looked_for(monkeypatch):
    """How many tokens' live neurons were looked for."""
    tokens = []
    feed = feed_forward._LiveNeurons.feed
    monkeypatch.setattr(feed_forward._LiveNeurons, "feed", lambda *given: tokens.append(1) or feed(*given))
    return tokens


@pytest.mark.parametrize(
    ("num_neurons", "dtype", "has_bfloat16", "num_tokens", "wanted"),
    [
        (LARGE, torch.float32, False, 1, 1),
        (LARGE, torch.float32, False, 4, 4),
        (LARGE, torch.float32, False, 5, 0),
        (SMALL, torch.float32, False, 1, 0),
        (LARGE, torch.bfloat16, True, 1, 1),
        (LARGE, torch.bfloat16, False, 1, 0),
    ],
)
@torch.inference_mode()
def test_live_neurons_are_looked_for_where_that_is_quicker(
    monkeypatch, looked_for, num_neurons, dtype, has_bfloat16, num_tokens, wanted
):
    monkeypatch.setattr(feed_forward, "_FEW_WEIGHTS", FEW_WEIGHTS)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bfloat16)
    x = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(2)).to(dtype)
    weights = Weights(num_neurons, dtype)
    found = FeedForward(weights, 0.95, dtype)(x)
    assert len(looked_for) == wanted
    monkeypatch.setattr(feed_forward, "_live_neurons", lambda *_: None)
    wanted_numbers = FeedForward(weights, 0.95, dtype)(x).float()
    assert distance(found, wanted_numbers) < (1e-5 if dtype == torch.float32 else 1e-2)
