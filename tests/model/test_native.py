"""What our own text model reads of a checkpoint, and refuses. What it computes, test_runner compares."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, Gemma3nModel

from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.errors import EngineError, ModelLoadError
from gemma3n_appliance.model import native, text_shapes, towers
from gemma3n_appliance.model.checkpoint_files import CheckpointFiles
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.layer import Layer
from gemma3n_appliance.model.per_layer_table import PerLayerTable
from gemma3n_appliance.model.runner import SlotRunner

from .conftest import save

CPU = torch.device("cpu")


def _first_token(parts) -> int | None:
    runner = SlotRunner(parts, KVCache(parts.decoder.config, 1, 256, CPU, torch.float32))
    runner.begin([0], GenerationRequest("r", (2, 20, 21, 22), Sampling(0.0), 5))
    return runner.prefill(0, 1024)


def test_a_checkpoint_must_have_what_transformers_has(text_model):
    wanted = {name: tuple(tensor.shape) for name, tensor in text_model.model.state_dict().items()}
    config = text_model.config
    num_owning = config.num_hidden_layers - config.num_kv_shared_layers
    # Some versions have keys and values where layers below have them, and read none.
    for name in [name for name in wanted if re.search(r"self_attn\.[kv]_", name)]:
        if int(name.split(".")[1]) >= num_owning:
            del wanted[name]
    assert dict(text_shapes.of(config)) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype_of_parts", [None, torch.float32, torch.bfloat16])
def test_towers_are_those_that_transformers_loads(checkpoint_dir, dtype, dtype_of_parts):
    config = AutoConfig.from_pretrained(checkpoint_dir)
    for part in (config, config.vision_config, config.audio_config):
        part.dtype = dtype_of_parts
    ours = towers.load(CheckpointFiles(checkpoint_dir), config, dtype)
    theirs = Gemma3nModel.from_pretrained(checkpoint_dir, dtype=dtype)
    assert not ours.training
    for listed in ("named_parameters", "named_buffers"):
        found = dict(getattr(ours, listed)())
        wanted = {k: v for k, v in getattr(theirs, listed)() if not k.startswith("language_model.")}
        assert found.keys() == wanted.keys()
        assert [k for k in found if found[k].dtype != wanted[k].dtype or not found[k].equal(wanted[k])] == []


def test_towers_of_a_model_that_was_saved_without_its_head_are_found(checkpoint_dir, tmp_path):
    whole = Gemma3nModel.from_pretrained(checkpoint_dir, dtype=torch.float32)
    save(whole, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    ours = towers.load(CheckpointFiles(tmp_path), config, torch.float32)
    wanted = whole.state_dict()
    assert all(tensor.equal(wanted[name]) for name, tensor in ours.state_dict().items())


def test_a_checkpoint_in_several_files_is_the_same(text_model, text_dir, tmp_path):
    text_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, parts = (
        native.load(directory, text_model.config, torch.float32, CPU) for directory in (text_dir, tmp_path)
    )
    assert parts.num_bytes_left_on_disk == whole.num_bytes_left_on_disk
    assert _first_token(parts) == _first_token(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"altup_active_idx": 1}, "altup_active_idx"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"altup_num_inputs": 3}, "altup_num_inputs"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_what_it_would_compute_wrongly_is_refused(text_model, text_dir, change, named):
    config = type(text_model.config)(**(text_model.config.to_dict() | change))
    with pytest.raises(ModelLoadError, match=rf"{named}.* Set ENGINE=reference"):
        native.load(text_dir, config, torch.float32, CPU)


def _anonymous_bytes() -> int:
    found = re.search(r"^Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_read_from_its_file_and_takes_no_memory_of_its_own(tmp_path, dtype):
    table = torch.arange(4096 * 4096).view(4096, 4096).remainder(256).to(dtype)
    # Something before it, so that the table begins in the middle of a page.
    save_file({"a": torch.ones(3), "table": table, "z": torch.ones(3)}, tmp_path / "model.safetensors")
    rows = torch.tensor([7, 4095, 0, *range(100, 160)])
    expected, num_bytes = table[rows], table.nbytes
    del table

    at_first = _anonymous_bytes()
    on_disk = PerLayerTable(CheckpointFiles(tmp_path).place("table"))
    for start in range(0, 4096, 16):
        on_disk.rows(range(start, start + 16))
    assert on_disk.num_bytes == num_bytes
    assert torch.equal(on_disk.rows(rows.tolist()), expected)
    assert _anonymous_bytes() - at_first < 0.1 * num_bytes


def test_ids_beyond_the_table_mean_its_first_row(tmp_path):
    save_file({"table": torch.arange(8.0).view(4, 2)}, tmp_path / "model.safetensors")
    on_disk = PerLayerTable(CheckpointFiles(tmp_path).place("table"))
    assert on_disk.rows([3, 4, 100]).tolist() == [[6.0, 7.0], [0.0, 1.0], [0.0, 1.0]]
    assert on_disk.columns([3, 4, 100], slice(1, 2)).tolist() == [[7.0], [1.0], [1.0]]


def test_a_file_that_the_index_names_and_nobody_brought_is_missed(text_model, tmp_path):
    text_model.save_pretrained(tmp_path, max_shard_size="50KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    (tmp_path / min(index["weight_map"].values())).unlink()
    with pytest.raises(OSError, match="model-00001"):
        native.load(tmp_path, text_model.config, torch.float32, CPU)


def test_one_file_counts_more_than_an_index_left_beside_it(text_model, text_dir, tmp_path):
    text_model.save_pretrained(tmp_path, max_shard_size="50KB")
    shutil.copy(text_dir / "model.safetensors", tmp_path)
    files = CheckpointFiles(tmp_path)
    assert {files.place(name).file.name for name in files} == {"model.safetensors"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        lambda whole: b"",
        lambda whole: whole[:4],
        lambda whole: whole[:100],
        lambda whole: whole[:-1],
    ],
)
def test_a_file_that_is_none_is_named(text_dir, tmp_path, damage):
    file = tmp_path / "model.safetensors"
    file.write_bytes(damage((text_dir / "model.safetensors").read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or was cut short"):
        CheckpointFiles(tmp_path)


def test_weights_stored_in_a_way_that_is_not_read_are_named(tmp_path):
    save_file({"w": torch.ones(2, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="F8_E4M3"):
        CheckpointFiles(tmp_path).read("w")


def test_a_table_cut_short_while_it_is_served_ends_a_request(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"table": torch.arange(8.0).view(4, 2)}, file)
    on_disk = PerLayerTable(CheckpointFiles(tmp_path).place("table"))
    with file.open("r+b") as opened:
        opened.truncate(70)
    with pytest.raises(EngineError, match="restart the server"):
        on_disk.rows([3])
    with pytest.raises(EngineError, match="restart the server"):
        on_disk.columns([3], slice(1, 2))


def test_layers_above_the_last_keys_see_a_prompts_last_token_alone(text_model, text_dir, monkeypatch):
    parts = native.load(text_dir, text_model.config, torch.float32, CPU)
    seen: list[tuple[int, int]] = []
    forward = Layer.forward

    def watched(layer, streams, *rest):
        seen.append((layer.shape.index, len(streams)))
        return forward(layer, streams, *rest)

    monkeypatch.setattr(Layer, "forward", watched)
    runner = SlotRunner(parts, KVCache(text_model.config, 1, 256, CPU, torch.float32))
    runner.begin([0], GenerationRequest("r", tuple(range(20)), Sampling(0.0), 5))
    last_owning = text_model.config.num_hidden_layers - text_model.config.num_kv_shared_layers - 1
    lower, upper = range(last_owning), range(last_owning, text_model.config.num_hidden_layers)
    assert runner.prefill(0, 15) is None
    assert seen == [(index, 15) for index in lower]
    seen.clear()
    assert runner.prefill(0, 15) is not None
    assert seen == [*((index, 5) for index in lower), *((index, 1) for index in upper)]


def test_prompts_of_two_slots_at_once_are_refused(text_model, text_dir):
    decoder = native.load(text_dir, text_model.config, torch.float32, CPU).decoder
    step = KVCache(text_model.config, 2, 256, CPU, torch.float32).step([0, 1], 3)
    with pytest.raises(ValueError, match="one slot at a time"):
        decoder.forward(decoder.embed([[1, 2, 3]] * 2), step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to wait for")
@torch.inference_mode()
def test_a_prompts_text_waits_for_no_gpu(text_model, text_dir):
    device = torch.device("cuda")
    decoder = native.load(text_dir, text_model.config, torch.float32, device).decoder
    cache = KVCache(text_model.config, 1, 256, device, torch.float32)
    cache.reserve(256)

    def read() -> None:
        decoder.remember(decoder.embed([[5, 6] * 50]), cache.step([0], 100))
        decoder.forward(decoder.embed([[5, 6] * 50]), cache.step([0], 100))

    read()  # warms up
    torch.cuda.set_sync_debug_mode("error")
    try:
        read()
    finally:
        torch.cuda.set_sync_debug_mode("default")
