"""What the cache allocates, and when. What it holds is judged by test_runner."""

import pytest
import torch
from transformers import Gemma3nTextConfig

from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.errors import InsufficientMemoryError
from gemma3n_appliance.model.kv_cache import KVCache


@pytest.fixture
def config() -> Gemma3nTextConfig:
    layer_types = ["sliding_attention", "full_attention"] * 3
    return Gemma3nTextConfig(
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        layer_types=layer_types,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=8,
        activation_sparsity_pattern=[0.0] * 6,
    )


@pytest.fixture
def cache(config) -> KVCache:
    return KVCache(config, 3, 1000, torch.device("cpu"), torch.bfloat16)


def num_bytes(capacity: int) -> int:
    """4 owning layers, keys and values, 3 slots, 2 heads of 8, 2 bytes each."""
    return 4 * 2 * 3 * 2 * 8 * 2 * capacity


@pytest.mark.parametrize(
    ("lengths", "capacity"),
    [
        ([], 0),
        ([1], 256),
        ([256], 256),
        ([257], 512),
        ([600], 1000),
        ([1000], 1000),
        ([600, 10], 1000),
        ([10, 300], 512),
    ],
)
def test_room_doubles_up_to_the_context_for_the_owning_layers_alone(cache, lengths, capacity):
    for length in lengths:
        cache.reserve(length)
    assert cache.num_bytes == num_bytes(capacity)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
        RuntimeError("NvMapMemAllocInternalTagged: 1075072515 error 12"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_request_that_memory_cannot_hold_is_refused_and_others_go_on(
    probe, prompt, assert_close, monkeypatch, error
):
    token_ids = prompt(1, 30)
    probe.start(0, token_ids)
    grow, calls = probe.cache._grow, []

    def fails_at_the_second_layer(index: int, capacity: int) -> None:
        calls.append(index)
        if index == 1:
            raise error
        grow(index, capacity)

    monkeypatch.setattr(probe.cache, "_grow", fails_at_the_second_layer)
    with pytest.raises(InsufficientMemoryError, match="max_tokens"):
        probe.runner.begin([1], GenerationRequest("big", tuple(prompt(2, 500)), Sampling(0.0), 100))
    assert calls == [0, 1]
    probe.runner.decode([0])
    survivor = probe.logits
    probe.runner.release(0)
    monkeypatch.undo()
    probe.start(0, token_ids)
    probe.runner.decode([0])
    assert_close(survivor, probe.logits)


def test_other_errors_of_torch_keep_their_name(probe, prompt, monkeypatch):
    def fails(length: int) -> None:
        raise RuntimeError("expected scalar type Float")

    monkeypatch.setattr(probe.cache, "reserve", fails)
    with pytest.raises(RuntimeError, match="scalar type"):
        probe.start(0, prompt(1, 5))
