import json
import struct
from pathlib import Path

import pytest

from gemma3n_appliance.host.memory_need import weights_in_memory
from gemma3n_appliance.settings import Settings

TABLE, TOWERS, TEXT = 4000, 1000, 10_000
MB = 1 << 20


def write(file: Path, sizes: dict[str, int]) -> None:
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "I8", "shape": [size], "data_offsets": [start, start + size]}
        start += size
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(start))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint in two files."""
    text = {"model.language_model.layers.0.mlp.up_proj.weight": TEXT}
    table = {"model.language_model.embed_tokens_per_layer.weight": TABLE}
    towers = {"model.vision_tower.a": TOWERS - 10, "model.embed_audio.b": 10}
    write(tmp_path / "model-1.safetensors", text | towers)
    write(tmp_path / "model-2.safetensors", table)
    return tmp_path


def needed(directory: Path, num_bytes: int = TABLE + TOWERS + TEXT, **settings: str) -> int:
    return weights_in_memory(Settings(model_name=str(directory), **settings), num_bytes)


def test_the_table_stays_in_its_file_and_towers_keep_their_bits(directory: Path):
    assert needed(directory) == TOWERS + TEXT
    assert needed(directory, quantization="int8") == TOWERS + 0.52 * TEXT
    assert needed(directory, quantization="int4") == TOWERS + 0.37 * TEXT
    assert needed(directory, engine="reference") == TABLE + TOWERS + TEXT


@pytest.mark.parametrize("num_bytes", [10_880_000_000, 15_700_000_000])
def test_before_a_model_is_there_its_size_tells_roughly(tmp_path: Path, num_bytes: int):
    (tmp_path / "model.safetensors").write_bytes(bytes(8))
    table = {10_880_000_000: 4_030_000_000, 15_700_000_000: 4_700_000_000}[num_bytes]
    exact = num_bytes - table
    assert exact <= needed(tmp_path, num_bytes) <= 1.15 * exact
    assert needed(tmp_path, num_bytes, quantization="int4") < 5_400_000_000


def test_no_model_needs_nothing(tmp_path: Path):
    assert needed(tmp_path, 0) == 0
