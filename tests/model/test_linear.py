"""Which of torch's kernels a weight of numbers is multiplied by."""

import platform

import pytest
import torch

from gemma3n_appliance.model import linear
from gemma3n_appliance.model.linear import Dense

from .conftest import distance

AS_SERVED = linear._MANY_WEIGHTS  # before other tests' fixture lowers it
LARGE, SMALL = (512, 512), (511, 512)


@pytest.fixture
def by_onednn(monkeypatch):
    """How many rows oneDNN was given."""
    rows = []
    multiply = torch.ops.mkldnn._linear_pointwise

    def noting(x, *others):
        rows.append(len(x))
        return multiply(x, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noting)
    return rows


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there")
@pytest.mark.parametrize(
    ("shape", "num_rows", "change", "is_by_onednn"),
    [
        (LARGE, 1, lambda weight: weight, True),
        (LARGE, 32, lambda weight: weight, True),
        (LARGE, 33, lambda weight: weight, False),
        (SMALL, 1, lambda weight: weight, False),
        (LARGE, 1, lambda weight: weight.bfloat16(), False),
        (LARGE, 1, lambda weight: weight.t().contiguous().t(), False),
    ],
    ids=["one row", "few", "many", "small", "bfloat16", "by columns"],
)
@torch.inference_mode()
def test_few_rows_are_multiplied_by_onednn_in_float32(
    monkeypatch, by_onednn, shape, num_rows, change, is_by_onednn
):
    monkeypatch.setattr(linear, "_MANY_WEIGHTS", AS_SERVED)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator)
    x = torch.randn(num_rows, 3 * shape[1], generator=generator)[:, 5 : 5 + shape[1]]  # not in one piece
    found = Dense(change(weight))(x.to(change(weight).dtype))
    assert distance(found, x @ weight.t()) < (1e-6 if found.dtype == torch.float32 else 1e-2)
    assert by_onednn == [num_rows] * is_by_onednn
