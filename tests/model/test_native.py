"""What our own text model reads of a checkpoint, and refuses. What it computes, test_runner compares."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.model import native
from gemma3n_appliance.model.checkpoint_files import CheckpointFiles
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.per_layer_table import PerLayerTable
from gemma3n_appliance.model.runner import SlotRunner

CPU = torch.device("cpu")


def _first_token(parts) -> int | None:
    runner = SlotRunner(parts, KVCache(parts.decoder.config, 1, 256, CPU, torch.float32))
    runner.begin(0, GenerationRequest("r", (2, 20, 21, 22), Sampling(0.0), 5))
    return runner.prefill(0, 1024)


def test_a_checkpoint_in_several_files_is_the_same(text_model, text_dir, tmp_path):
    text_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, parts = (
        native.load(directory, text_model.config, torch.float32, CPU) for directory in (text_dir, tmp_path)
    )
    assert parts.num_mapped_bytes == whole.num_mapped_bytes
    assert _first_token(parts) == _first_token(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"altup_active_idx": 1}, "altup_active_idx"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"tie_word_embeddings": False}, "ENGINE=reference"),
    ],
)
def test_what_it_would_compute_wrongly_is_refused(text_model, text_dir, change, named):
    config = type(text_model.config)(**(text_model.config.to_dict() | change))
    with pytest.raises(ValueError, match=named):
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
    mapped = PerLayerTable(CheckpointFiles(tmp_path).place("table"))
    for start in range(0, 4096, 16):
        mapped.rows(range(start, start + 16))
    assert mapped.num_bytes == num_bytes
    assert torch.equal(mapped.rows(rows.tolist()), expected)
    assert _anonymous_bytes() - at_first < 0.1 * num_bytes


def test_ids_beyond_the_table_mean_its_first_row(tmp_path):
    save_file({"table": torch.arange(8.0).view(4, 2)}, tmp_path / "model.safetensors")
    mapped = PerLayerTable(CheckpointFiles(tmp_path).place("table"))
    assert mapped.rows([3, 4, 100]).tolist() == [[6.0, 7.0], [0.0, 1.0], [0.0, 1.0]]


def test_a_file_that_the_index_names_and_nobody_brought_is_missed(text_model, tmp_path):
    text_model.save_pretrained(tmp_path, max_shard_size="50KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    (tmp_path / min(index["weight_map"].values())).unlink()
    with pytest.raises(OSError, match="model-00001"):
        native.load(tmp_path, text_model.config, torch.float32, CPU)
