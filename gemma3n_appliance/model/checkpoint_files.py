"""Reads a checkpoint's safetensors files, one or many, without loading what is not asked for."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are: ``offset`` from the beginning of ``file``, in rows one after the other."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class CheckpointFiles:
    """The tensors of a checkpoint's directory by name."""

    def __init__(self, directory: Path) -> None:
        """Reads the files' headers.

        Raises:
            OSError: a file is missing.
            ValueError: a file is no safetensors file.
        """
        self._places = {name: place for file in _files(directory) for name, place in _places(file)}

    @property
    def names(self) -> frozenset[str]:
        """All there are."""
        return frozenset(self._places)

    def place(self, name: str) -> Place:
        """Returns where a tensor is. Raises KeyError where there is none."""
        return self._places[name]

    def read(self, name: str) -> Tensor:
        """Returns a tensor on the CPU, in the file's dtype; its memory may be the file's."""
        with safe_open(self._places[name].file, framework="pt") as file:
            return file.get_tensor(name)


def _files(directory: Path) -> list[Path]:
    if not (directory / _INDEX).exists():
        return [directory / _SINGLE]
    index = json.loads((directory / _INDEX).read_text())
    return [directory / name for name in sorted(set(index["weight_map"].values()))]


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    """The header is JSON after its length in eight bytes, https://huggingface.co/docs/safetensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in _DTYPES:
            begin = 8 + length + entry["data_offsets"][0]
            yield name, Place(path, begin, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
