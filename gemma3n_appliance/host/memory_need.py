"""How much memory a checkpoint's weights will take, told from outside, without torch."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from ..settings import Settings

# Left in its file by the native engine, https://huggingface.co/google/gemma-3n-E4B-it.
_TABLE = "embed_tokens_per_layer.weight"
# Never quantised.
_TOWERS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.")
# Of bfloat16: bytes with a scale for every row; nibbles with two for every 32, and bytes for the embeddings.
SHARE = {"none": 1.0, "int8": 0.52, "int4": 0.37}
# Before its files are there, of Google's: 30 and 37 % are the table, and the towers are the same in both.
_SMALLEST_TABLE = 0.29
_TOWER_BYTES = 1_950_000_000


def weights_in_memory(settings: Settings, num_bytes: int) -> int:
    """Returns the bytes that weights take of which a download has ``num_bytes``; on the safe side."""
    if settings.engine == "reference":
        return num_bytes
    table, towers = _table_and_towers(settings.model_dir) or (
        int(num_bytes * _SMALLEST_TABLE),
        min(_TOWER_BYTES, num_bytes // 4),
    )
    return towers + int((num_bytes - table - towers) * SHARE[settings.quantization])


def _table_and_towers(directory: Path) -> tuple[int, int] | None:
    """Returns how many bytes each has in the files; None where no file has the table yet."""
    sizes = [pair for file in directory.glob("*.safetensors") for pair in _sizes(file)]
    table = sum(size for name, size in sizes if name.endswith(_TABLE))
    towers = sum(size for name, size in sizes if any(tower in name for tower in _TOWERS))
    return (table, towers) if table else None


def _sizes(file: Path) -> Iterator[tuple[str, int]]:
    """What the header says, https://huggingface.co/docs/safetensors; of what is no such file, nothing."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, file.stat().st_size)))
    except (struct.error, ValueError):
        return
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, end - start
