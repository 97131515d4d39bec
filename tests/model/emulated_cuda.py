"""Our CUDA kernels on a CPU: the same source, compiled by the machine's C++ compiler, in float32.

Blocks run one after the other, so a kernel whose blocks disturb each other is found out only where the order
matters; of kernels that overlap can be seen that they wait, not that it is enough.
"""

import gemma3n_appliance.model  # noqa: F401 - before transformers: it makes torchvision importable

# isort: split
import ctypes
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from gemma3n_appliance.model import cuda_kernels, cuda_source, feed_forward, nvrtc
from gemma3n_appliance.model.cuda_kernels import CudaKernels

HEADER = Path(__file__).with_name("emulated_cuda.h")
_NUM_MULTIPROCESSORS = 3
_SHARED_BYTES = 1 << 18  # as the header has them


class Module:
    """Stands in for `nvrtc.Module`, and counts by name what is launched."""

    launched: ClassVar[Counter[str]] = Counter()

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def kernel(self, name: str, *, overlaps: bool = False):
        """Returns what runs a kernel; one that ``overlaps`` has to wait for the one ahead of it."""
        launch = self._library[f"emulate_{name}"]
        launch.restype = ctypes.c_bool

        def run(grid, block, *arguments, shared_bytes: int = 0) -> None:
            assert shared_bytes <= _SHARED_BYTES
            # On a GPU, they would have to be on it.
            assert all(not isinstance(each, Tensor) or each.is_cpu for each in arguments)
            given = nvrtc.Arguments(len(arguments))
            given.fill(arguments)
            waited = launch((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), given.pointers)
            assert waited or not overlaps, name
            self.launched[name] += 1

        return run


def source() -> str:
    """Returns the kernels' source as C++."""
    shared = r"extern __shared__ (\w+) (\w+)\[\];.*"
    body = re.sub(shared, r"\1* \2 = (\1*)dynamic_shared;", cuda_source.source())
    return f'#include "{HEADER}"\n{body}'


def parameters(group: int) -> dict[str, list[type]]:
    """Returns what every kernel takes, as the types that are passed for it."""
    command = [*_compiler(group), "-E", "-x", "c++", "-"]
    expanded = subprocess.run(command, input=source(), check=True, capture_output=True, text=True).stdout
    return {
        name: [Tensor if "*" in each else float if "float" in each else int for each in listed.split(",")]
        for name, listed in re.findall(r'extern "C"\s+void\s+(\w+)\((.*?)\)', expanded, re.DOTALL)
    }


def build(group: int, directory: Path) -> Path:
    """Compiles the kernels for ``group`` queries to a key head, and returns the library."""
    file = directory / f"kernels_{group}.cpp"
    library = file.with_suffix(".so")
    if library.exists():
        return library
    launches = [
        f'extern "C" bool emulate_{name}(const unsigned* grid, const unsigned* block, void** arguments) '
        f"{{ return Emulated<{name}>::launch(grid, block, arguments); }}"
        for name in parameters(group)
    ]
    file.write_text("\n".join([source(), *launches]))
    optimized = ["-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing"]
    subprocess.run([*_compiler(group), *optimized, file, "-o", library], check=True)
    return library


def _compiler(group: int) -> list[str]:
    if shutil.which("g++") is None and "GEMMA3N_CI" not in os.environ:
        pytest.skip("there is no g++ to compile our CUDA kernels for the CPU with")
    defined = cuda_source.options(torch.float32, group)
    return ["g++", "-std=c++17", "-w", *(option.replace("--define-macro=", "-D") for option in defined)]


def cut_up(patch: pytest.MonkeyPatch, **values: int) -> None:
    """Has launches cut up in another way than `cuda_source` has it."""
    for name, value in values.items():
        for module in (cuda_source, cuda_kernels):
            if hasattr(module, name):
                patch.setattr(module, name, value)


@contextmanager
def emulated(directory: Path) -> Iterator[None]:
    """Has every model that is loaded meanwhile, on the CPU, compute by our kernels.

    Those in ``directory`` have been compiled for how launches are cut up.
    """

    def load(config: Gemma3nTextConfig, dtype: torch.dtype, *_: object) -> CudaKernels:
        assert dtype == torch.float32
        assert cuda_kernels._suits(config)
        group = config.num_attention_heads // config.num_key_value_heads
        patch.setattr(cuda_source, "module", lambda *_: Module(build(group, directory)))
        return CudaKernels(config, dtype, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "DEVICE", "cpu")
        patch.setattr(nvrtc, "num_multiprocessors", lambda: _NUM_MULTIPROCESSORS)
        patch.setattr(cuda_kernels, "load", load)
        # What a CPU does for itself, a GPU has to do.
        patch.setattr(feed_forward, "_live_neurons", lambda *_: None)
        yield
