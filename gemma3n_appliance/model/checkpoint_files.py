"""Reads a checkpoint's safetensors files, one or many, without loading what is not asked for."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# What our own files have besides.
_INTEGERS = {"I8": torch.int8, "U8": torch.uint8}
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are: ``offset`` from the beginning of ``file``, in rows one after the other.

    ``stored_as`` is the file's word for its dtype.
    """

    file: Path
    offset: int
    shape: tuple[int, ...]
    stored_as: str

    @property
    def dtype(self) -> torch.dtype:
        """The same in torch's words. Raises ValueError where it is none that Gemma 3n is published in."""
        if self.stored_as not in _DTYPES:
            raise ValueError(
                f"{self.file.name} holds weights as {self.stored_as}, not as {', '.join(_DTYPES)}."
            )
        return _DTYPES[self.stored_as]


class CheckpointFiles:
    """The tensors of a checkpoint's directory by name."""

    def __init__(self, directory: Path) -> None:
        """Reads the files' headers.

        Raises:
            OSError: a file is missing.
            ValueError: a file is no safetensors file, or was cut short.
        """
        self._places = {name: place for file in _files(directory) for name, place in _places(file)}

    def __iter__(self) -> Iterator[str]:
        """The names of all there are."""
        return iter(self._places)

    def place(self, name: str) -> Place | None:
        """Returns where a tensor is, if there is one."""
        return self._places.get(name)

    def lacking(self, prefix: str, wanted: Iterable[tuple[str, tuple[int, ...]]]) -> set[str]:
        """Returns which names, behind ``prefix``, are of no tensor of that shape, by the headers alone."""
        places = ((name, shape, self.place(prefix + name)) for name, shape in wanted)
        return {name for name, shape, place in places if not place or place.shape != shape}

    def read(self, name: str) -> Tensor:
        """Returns a tensor on the CPU, in the file's dtype. Raises KeyError where there is none.

        Read rather than mapped, as safetensors does it: the kernel would want to be able to copy the whole
        file, and a board has less memory than that.
        """
        place = self._places[name]
        return _read(place, place.dtype)


def read_all(file: Path) -> dict[str, Tensor]:
    """Returns all tensors of one of our own files by name.

    Raises:
        OSError: there is no such file.
        ValueError: it is no safetensors file, or was cut short.
    """
    dtypes = _DTYPES | _INTEGERS
    return {name: _read(place, dtypes[place.stored_as]) for name, place in _places(file)}


def _read(place: Place, dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(place.shape, dtype=dtype)
    with place.file.open("rb") as file:
        file.seek(place.offset)
        file.readinto(tensor.view(-1).view(torch.uint8).numpy())
    return tensor


def _files(directory: Path) -> list[Path]:
    """As transformers chooses: an index may be left from what was there before."""
    if (directory / _SINGLE).exists() or not (directory / _INDEX).exists():
        return [directory / _SINGLE]
    index = json.loads((directory / _INDEX).read_text())
    return [directory / name for name in sorted(set(index["weight_map"].values()))]


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    """The header is JSON after its length in eight bytes, https://huggingface.co/docs/safetensors."""
    header, first = _header(path)
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, Place(path, first + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])


def _header(path: Path) -> tuple[dict, int]:
    """Returns the header, and where the first tensor begins."""
    no_such_file = ValueError(f"{path.name} is no safetensors file, or was cut short.")
    size = path.stat().st_size
    with path.open("rb") as file:
        # A text, such as git-lfs leaves in the place of a large file, would begin with an enormous length.
        if size < _LENGTH_BYTES:
            raise no_such_file
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        first = _LENGTH_BYTES + length
        if first > size:
            raise no_such_file
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise no_such_file from None
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if first + max(ends, default=0) > size:
        raise no_such_file
    return header, first
