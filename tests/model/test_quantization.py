"""Weights of eight and four bits: the kernels, the rounding, and what is kept of it for the next start."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig, Gemma3nTextModel

from gemma3n_appliance.bench import quality
from gemma3n_appliance.errors import ModelLoadError
from gemma3n_appliance.host import memory_need
from gemma3n_appliance.model import native, quantize
from gemma3n_appliance.model.checkpoint_files import CheckpointFiles
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.linear import GROUP, Dense, Int4, Int8
from gemma3n_appliance.model.text_weights import TABLE, TextWeights

from .conftest import FULL, SLIDING, distance, scatter_weights

CPU = torch.device("cpu")
BITS = ("int8", "int4")


def numbers(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the kept tensors stand for, told here once more."""
    if "int8" in tensors:
        return tensors["int8"].float() * tensors["scales"].float()[:, None]
    nibbles = torch.stack([tensors["int4"] // 16, tensors["int4"] % 16], dim=-1).flatten(1)
    scales, zeros = (part.t().float()[..., None] for part in tensors["scales"].unbind(dim=-1))
    return ((nibbles.unflatten(1, (-1, GROUP)).float() - 8) * scales + zeros).flatten(1)


@pytest.mark.parametrize("bits", BITS)
@given(
    num_outputs=st.integers(1, 9).map(lambda n: 16 * n),
    num_inputs=st.integers(1, 6).map(lambda n: GROUP * n),
    num_tokens=st.sampled_from([1, 2, 3, 5, 64, 65, 200]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_quantised_weight_multiplies_as_the_numbers_it_stands_for(
    bits, num_outputs, num_inputs, num_tokens, dtype, seed
):
    torch.manual_seed(seed)
    tensors = quantize.quantize(torch.randn(num_outputs, num_inputs) + 0.1, bits)
    x = torch.randn(num_tokens, num_inputs).to(dtype)
    found = quantize.linear(tensors)(x)
    assert found.dtype == dtype
    assert distance(found.float(), x.float() @ numbers(tensors).t()) < 0.01


@pytest.mark.parametrize(("bits", "most"), [("int8", 0.009), ("int4", 0.074)])
def test_numbers_are_rounded_to_the_nearest_there_are(bits, most):
    torch.manual_seed(0)
    weight = torch.randn(4096 + 48, 256)
    found = numbers(quantize.quantize(weight, bits))
    assert distance(found, weight) < most
    # One large number costs those of its own row or group alone.
    weight[5, 3] = 100.0
    others = torch.ones_like(weight, dtype=torch.bool)
    others[5, : GROUP if bits == "int4" else None] = False
    again = numbers(quantize.quantize(weight, bits))
    assert torch.equal(again[others], found[others])


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_of_one_number_alone_has_a_scale_too(bits):
    for value in (0.0, 0.5, -2.0):
        weight = torch.full((16, 2 * GROUP), value)
        assert (numbers(quantize.quantize(weight, bits)) - weight).abs().max() <= 0.004 * abs(value)


@pytest.mark.parametrize(
    ("shape", "fine", "made"),
    [
        ((16, 32), False, {"int8": Int8, "int4": Int4}),
        ((16, 32), True, {"int8": Int8, "int4": Int8}),
        ((24, 64), False, {"int8": Int8, "int4": Int8}),
        ((16, 48), False, {"int8": Dense, "int4": Dense}),
    ],
)
def test_a_weight_is_of_no_fewer_bits_than_a_kernel_takes(tmp_path, shape, fine, made):
    weight = torch.randn(shape)
    save_file({TABLE: torch.zeros(2, 2), "a.weight": weight}, tmp_path / "model.safetensors")
    x = torch.randn(3, shape[1])
    for bits in BITS:
        weights = TextWeights(CheckpointFiles(tmp_path), torch.float32, CPU, bits)
        linear = weights.within("a.").linear("a", lambda weights=weights: weights("a.weight"), fine=fine)
        assert type(linear) is made[bits]
        assert weights.num_bytes == linear.num_bytes <= weight.nbytes
        assert distance(linear(x), x @ weight.t()) < 0.15


@pytest.fixture(scope="module")
def model() -> Gemma3nForCausalLM:
    torch.manual_seed(3)
    config = Gemma3nTextConfig(
        vocab_size=320,
        vocab_size_per_layer_input=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=5,
        num_kv_shared_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_size_per_layer_input=32,
        laurel_rank=16,  # no kernel multiplies that
        layer_types=[SLIDING, FULL, SLIDING, FULL, SLIDING],
        activation_sparsity_pattern=[0.95] * 2 + [0.0] * 3,
    )
    model = Gemma3nForCausalLM(config).eval()
    scatter_weights(model)
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "Gemma-Small"
    model.save_pretrained(directory)
    return directory


def load(directory, model, bits="none", cache_dir=None, dtype=torch.float32):
    return native.load(directory, model.config, dtype, CPU, bits, cache_dir)


@torch.inference_mode()
def logits(parts, chunks) -> torch.Tensor:
    cache = KVCache(parts.decoder.config, 1, 256, CPU, parts.decoder.dtype)
    cache.reserve(256)
    for chunk in chunks:
        step = cache.step([0], len(chunk))
        state = parts.decoder.forward(parts.decoder.embed([chunk]), step)
        step.commit()
    return parts.decoder.logits(state).float()


FINE = re.compile("per_layer|embed_tokens.weight|altup_projections|lm_head")
QUANTIZED = re.compile("proj|linear_|per_layer_input_gate|embed_tokens.weight|lm_head")


@torch.no_grad()
def rounded(model: Gemma3nForCausalLM, bits: str) -> Gemma3nForCausalLM:
    """transformers' model with the numbers that quantised weights stand for."""
    copy = Gemma3nForCausalLM(model.config).eval()
    copy.load_state_dict(model.state_dict())
    for name, module in copy.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 2 or "unembed" in name or not QUANTIZED.search(f"{name}.weight"):
            continue
        # Left in its file; tied; too narrow.
        if name.endswith(("embed_tokens_per_layer", "lm_head", "laurel.linear_right")):
            continue
        scale = torch.ones(weight.shape[1])
        if name.endswith("per_layer_input_gate"):
            scale = copy.get_submodule(name.rpartition(".")[0]).altup.correct_output_scale
        kept = quantize.quantize(weight * scale, "int8" if FINE.search(f"{name}.weight") else bits)
        weight.copy_(numbers(kept) / scale)
    return copy


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("num_tokens", [1, 40, 150])
def test_a_quantised_model_computes_what_transformers_does_with_its_numbers(
    directory, model, bits, num_tokens
):
    prompt = torch.randint(0, 300, (num_tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        wanted = rounded(model, bits)(torch.tensor([prompt])).logits[0, -1:]
    whole = logits(load(directory, model), [prompt])
    parts = load(directory, model, bits)
    for chunks in ([prompt], [prompt[:20], prompt[20:]], [[token] for token in prompt]):
        found = logits(parts, [chunk for chunk in chunks if chunk])
        assert distance(found, wanted) < min(0.03, distance(wanted, whole))


def test_fewer_bits_take_less_memory(directory, model):
    whole, eight, four = (load(directory, model, bits).num_weight_bytes for bits in ("none", *BITS))
    assert whole > 2.2 * eight
    assert eight > 1.1 * four


def bytes_of(shape: torch.Size, bits: str) -> float:
    num_outputs, num_inputs = shape
    if bits == "int8":
        return num_outputs * (num_inputs + 2)
    return num_outputs * num_inputs * (0.5 + 4 / GROUP)


@pytest.mark.parametrize(
    "size",
    [{}, {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "intermediate_size": 8192}],
    ids=["E4B", "E2B"],
)
@pytest.mark.parametrize("bits", BITS)
def test_what_check_says_a_model_needs_is_on_the_safe_side(bits, size):
    layers = size.get("num_hidden_layers", 35)
    kinds = ([SLIDING] * 4 + [FULL]) * (layers // 5)
    config = Gemma3nTextConfig(**size, layer_types=kinds, activation_sparsity_pattern=[0.0] * layers)
    with torch.device("meta"):
        tensors = Gemma3nTextModel(config).state_dict()
    del tensors[TABLE]
    whole = sum(tensor.numel() * 2 for tensor in tensors.values())
    quantised = sum(
        bytes_of(tensor.shape, "int8" if FINE.search(name) or "laurel.linear_right" in name else bits)
        if tensor.ndim == 2 and QUANTIZED.search(name) and "unembed" not in name
        else tensor.numel() * 2
        for name, tensor in tensors.items()
    )
    share = memory_need.SHARE[bits]
    assert quantised / whole <= share <= 1.12 * quantised / whole


def test_the_demo_model_keeps_its_mind():
    found = quality.distances("int8", "int4", num_questions=20)
    assert found["int8"].divergence < 0.0005
    assert found["int8"].agreement > 0.99
    assert found["int4"].divergence < 0.01
    assert found["int4"].agreement > 0.98


def refuse(*_):
    raise AssertionError("made again")


@pytest.mark.parametrize("bits", BITS)
def test_what_was_made_is_found_at_the_next_start(directory, model, bits, tmp_path, monkeypatch):
    first = logits(load(directory, model, bits, tmp_path / "cache"), [[5, 6, 7]])
    monkeypatch.setattr(TextWeights, "_quantized_now", refuse)
    again = load(directory, model, bits, tmp_path / "cache")
    assert torch.equal(logits(again, [[5, 6, 7]]), first)
    assert again.num_weight_bytes == load(directory, model, bits, tmp_path / "cache").num_weight_bytes


def folders(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache / "quantized")) for path in cache.glob("quantized/*/*"))


def test_what_another_checkpoint_left_is_neither_used_nor_kept(directory, model, tmp_path):
    load(directory, model, "int8", tmp_path)
    load(directory, model, "int4", tmp_path)
    before = folders(tmp_path)
    changed = tmp_path / "other" / directory.name
    model.save_pretrained(changed)
    other = Gemma3nForCausalLM(model.config)
    other.save_pretrained(changed)
    wanted = logits(load(changed, model, "int8"), [[5, 6, 7]])
    assert torch.equal(logits(load(changed, model, "int8", tmp_path), [[5, 6, 7]]), wanted)
    after = folders(tmp_path)
    assert len(after) == len(before) == 2
    assert [("int4" in name) for name in set(before) & set(after)] == [True]


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_what_is_damaged_is_made_again(directory, model, tmp_path, damage):
    wanted = logits(load(directory, model, "int8", tmp_path), [[5, 6, 7]])
    [kept] = folders(tmp_path)
    file = tmp_path / "quantized" / kept / "layers.3.mlp.down.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    for _ in range(2):
        assert torch.equal(logits(load(directory, model, "int8", tmp_path), [[5, 6, 7]]), wanted)
    assert len(folders(tmp_path)) == 1


def test_a_start_that_was_broken_off_leaves_nothing_that_counts(directory, model, tmp_path, monkeypatch):
    made = quantize.quantize
    calls = []

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(quantize, "quantize", breaking)
    for _ in range(2):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            load(directory, model, "int8", tmp_path)
        [broken_off] = folders(tmp_path)
        assert broken_off.endswith(".partial")
    load(directory, model, "int8", tmp_path)
    assert len(calls) > 18
    [whole] = folders(tmp_path)
    assert not whole.endswith(".partial")


def test_what_is_not_ours_in_the_cache_stays(directory, model, tmp_path):
    for bits in BITS:
        (tmp_path / f"{directory.name}-{bits}-mine").mkdir()
        load(directory, model, bits, tmp_path)
        assert (tmp_path / f"{directory.name}-{bits}-mine").is_dir()


def test_a_torch_without_the_kernels_is_told(directory, model, monkeypatch):
    def missing(*_):
        raise NotImplementedError("Could not run 'aten::_weight_int8pack_mm' with arguments from 'CUDA'")

    monkeypatch.setattr(torch, "_weight_int8pack_mm", missing)
    for bits in BITS:
        with pytest.raises(ModelLoadError, match="int8 weights on cpu: install a newer one, or set QUANT"):
            load(directory, model, bits)


def test_a_cache_that_cannot_be_written_is_done_without(directory, model, tmp_path, capsys):
    (tmp_path / "file").touch()
    wanted = logits(load(directory, model, "int8"), [[5, 6, 7]])
    assert torch.equal(logits(load(directory, model, "int8", tmp_path / "file"), [[5, 6, 7]]), wanted)
    assert "quantised weights are not kept" in capsys.readouterr().out
