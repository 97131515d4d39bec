import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma3n_appliance.errors import InsufficientMemoryError
from gemma3n_appliance.model import cache_size
from gemma3n_appliance.model.cache_size import CacheSize, choose

LONGEST = 32_768


@pytest.mark.parametrize(
    ("asked", "num_positions", "chosen"),
    [
        (("auto", "auto"), 10**9, (8, LONGEST)),
        (("auto", "auto"), 100_000, (8, 12_288)),
        (("auto", "auto"), 40_000, (4, 9_984)),
        (("auto", "auto"), 20_000, (2, 9_984)),
        (("auto", "auto"), 5_000, (1, 4_864)),
        ((3, "auto"), 40_000, (3, 13_312)),
        (("auto", 2048), 5_000, (2, 2048)),
        (("auto", 2048), 1_000, (1, 2048)),
        ((64, 100_000), 1_000, (64, LONGEST)),
    ],
)
def test_what_is_asked_for_is_kept_and_the_rest_follows_memory(asked, num_positions, chosen):
    assert choose(*asked, num_positions, LONGEST) == CacheSize(*chosen)


@given(num_positions=st.integers(0, 10**6), longest=st.sampled_from([300, 4096, LONGEST]))
def test_what_is_chosen_fits(num_positions, longest):
    try:
        size = choose("auto", "auto", num_positions, longest)
    except InsufficientMemoryError:
        assert num_positions < min(512, longest)
    else:
        assert size.num_slots * size.max_context <= num_positions
        assert 256 <= size.max_context <= longest


@pytest.fixture
def decoder(text_model) -> types.SimpleNamespace:
    return types.SimpleNamespace(config=text_model.config, device=torch.device("cpu"), dtype=torch.float32)


def test_memory_that_is_free_now_decides(decoder, monkeypatch, tmp_path):
    def chosen(mib: int, num_slots="auto", context_length="auto"):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:  {mib << 10} kB\n")
        monkeypatch.setattr(cache_size, "MEMORY", tmp_path / "meminfo")
        return cache_size.fitting(decoder, num_slots, context_length)

    assert chosen(16_000) == CacheSize(8, 1024)
    # A quarter of what there is where a whole GB cannot be left.
    few = chosen(16)
    num_layers = decoder.config.num_hidden_layers - decoder.config.num_kv_shared_layers
    per_position = num_layers * 2 * decoder.config.num_key_value_heads * decoder.config.head_dim * 4
    assert few.num_slots * few.max_context * per_position <= 4 << 20
    with pytest.raises(InsufficientMemoryError, match="leaves no memory"):
        chosen(0)


def test_what_is_asked_for_and_may_be_too_much_is_told(decoder, monkeypatch, tmp_path, capsys):
    (tmp_path / "meminfo").write_text("MemAvailable: 2048 kB\n")
    monkeypatch.setattr(cache_size, "MEMORY", tmp_path / "meminfo")
    assert cache_size.fitting(decoder, 8, 1024) == CacheSize(8, 1024)
    assert "lower NUM_SLOTS or CONTEXT_LENGTH" in capsys.readouterr().out
