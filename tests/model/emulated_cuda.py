"""Our CUDA kernels on a CPU: the same source, compiled by the machine's C++ compiler, in float32.

Blocks run one after the other, so a kernel whose blocks disturb each other is found out only where the order
matters; how kernels that overlap wait for each other cannot be seen at all.
"""

import gemma3n_appliance.model  # noqa: F401 - before transformers: it makes torchvision importable

# isort: split
import ctypes
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from gemma3n_appliance.model import cuda_kernels, cuda_source, nvrtc
from gemma3n_appliance.model.cuda_kernels import CudaKernels

HEADER = Path(__file__).with_name("emulated_cuda.h")
_NUM_MULTIPROCESSORS = 3
_SHARED_BYTES = 1 << 18  # as the header has them


class Module:
    """Stands in for `nvrtc.Module`."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def kernel(self, name: str, *, overlaps: bool = False):
        """Returns what runs a kernel; ``overlaps`` means nothing here."""
        launch = self._library[f"emulate_{name}"]

        def run(grid, block, *arguments, shared_bytes: int = 0) -> None:
            assert shared_bytes <= _SHARED_BYTES
            # On a GPU, they would have to be on it.
            assert all(not isinstance(each, Tensor) or each.is_cpu for each in arguments)
            values = [nvrtc._as_c(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            launch((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), pointers)

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
    launches = [
        f'extern "C" void emulate_{name}(const unsigned* grid, const unsigned* block, void** arguments) '
        f"{{ Emulated<{name}>::launch(grid, block, arguments); }}"
        for name in parameters(group)
    ]
    file.write_text("\n".join([source(), *launches]))
    library = file.with_suffix(".so")
    optimized = ["-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing"]
    subprocess.run([*_compiler(group), *optimized, file, "-o", library], check=True)
    return library


def _compiler(group: int) -> list[str]:
    defined = cuda_source.options(torch.float32, group)
    return ["g++", "-std=c++17", "-w", *(option.replace("--define-macro=", "-D") for option in defined)]


@contextmanager
def emulated(directory: Path) -> Iterator[None]:
    """Has every model that is loaded meanwhile, on the CPU, compute by our kernels."""

    def load(config: Gemma3nTextConfig, dtype: torch.dtype, *_: object) -> CudaKernels:
        assert dtype == torch.float32
        assert cuda_kernels._suits(config)
        group = config.num_attention_heads // config.num_key_value_heads
        patch.setattr(cuda_source, "module", lambda *_: Module(build(group, directory)))
        return CudaKernels(config, dtype, None)

    with pytest.MonkeyPatch.context() as patch:
        # Fewer threads are emulated sooner, and blocks have more turns to take.
        patch.setattr(cuda_source, "TOKEN_THREADS", 64)
        patch.setattr(nvrtc, "DEVICE", "cpu")
        patch.setattr(nvrtc, "num_multiprocessors", lambda: _NUM_MULTIPROCESSORS)
        patch.setattr(cuda_kernels, "load", load)
        yield
