"""CUDA source → kernels to launch, on a machine that has no compiler: NVRTC comes with every CUDA torch.

Of both libraries' documented interfaces, these few functions: https://docs.nvidia.com/cuda/nvrtc and
https://docs.nvidia.com/cuda/cuda-driver-api. torch's own ``torch.cuda._compile_kernel`` is private, is
missing before 2.9, and asks for a CUDA toolkit.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

Argument = Tensor | int | float | None
Size = tuple[int, int, int]

_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_ALWAYS_ALLOWED_BYTES = 48 * 1024


class CudaError(RuntimeError):
    """NVRTC or the driver refused something."""


class Module:
    """Machine code on the current GPU."""

    def __init__(self, image: bytes) -> None:
        """Loads what `compiled` made. Raises CudaError where the driver does not take it."""
        torch.zeros(1, device="cuda")  # what comes next needs torch's context
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._handle = c_void_p()
        self._check(self._driver.cuModuleLoadData(byref(self._handle), image))

    def kernel(self, name: str, shared_bytes: int = 0) -> "Kernel":
        """Returns one that is ``extern "C"``, and may ask for so much dynamic shared memory."""
        function = c_void_p()
        self._check(self._driver.cuModuleGetFunction(byref(function), self._handle, name.encode()))
        if shared_bytes > _ALWAYS_ALLOWED_BYTES:
            self._check(
                self._driver.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED_SIZE, c_int(shared_bytes))
            )
        return Kernel(self, function)

    def launch(
        self, function: c_void_p, grid: Size, block: Size, shared_bytes: int, arguments: Sequence[Argument]
    ) -> None:
        """Launches on torch's current stream."""
        values = [_as_c(argument) for argument in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = c_void_p(torch.cuda.current_stream().cuda_stream)
        self._check(
            self._driver.cuLaunchKernel(function, *grid, *block, shared_bytes, stream, pointers, None)
        )

    def _check(self, code: int) -> None:
        if code:
            text = c_char_p()
            self._driver.cuGetErrorString(code, byref(text))
            raise CudaError((text.value or b"unknown error").decode())


class Kernel:
    """Runs ``kernel(grid, block, *arguments)``: tensors are passed as pointers, numbers as int and float."""

    def __init__(self, module: Module, function: c_void_p) -> None:
        self._module = module
        self._function = function

    def __call__(self, grid: Size, block: Size, *arguments: Argument, shared_bytes: int = 0) -> None:
        """Launches it."""
        self._module.launch(self._function, grid, block, shared_bytes, arguments)


def architecture() -> str:
    """Returns the current GPU's, such as ``"sm_87"``."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def compiled(source: str, architecture: str, options: Sequence[str]) -> bytes:
    """Returns machine code for an architecture; needs no GPU.

    Raises:
        CudaError: it does not compile; the message is the compiler's.
        OSError: there is no NVRTC.
    """
    nvrtc = _nvrtc()
    program = c_void_p()
    _succeed(nvrtc, nvrtc.nvrtcCreateProgram(byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        given = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in options)]
        if nvrtc.nvrtcCompileProgram(program, len(given), (c_char_p * len(given))(*given)):
            raise CudaError(_fetched(nvrtc, program, "ProgramLog").decode(errors="replace").strip("\0\n"))
        return _fetched(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(byref(program))


def _fetched(nvrtc: ctypes.CDLL, program: c_void_p, what: str) -> bytes:
    size = c_size_t()
    _succeed(nvrtc, nvrtc[f"nvrtcGet{what}Size"](program, byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _succeed(nvrtc, nvrtc[f"nvrtcGet{what}"](program, buffer))
    return buffer.raw


def _succeed(nvrtc: ctypes.CDLL, code: int) -> None:
    if code:
        nvrtc.nvrtcGetErrorString.restype = c_char_p
        raise CudaError(nvrtc.nvrtcGetErrorString(code).decode())


def _nvrtc() -> ctypes.CDLL:
    name = f"libnvrtc.so.{(torch.version.cuda or '').partition('.')[0]}"
    try:
        return ctypes.CDLL(name)
    except OSError:
        # A wheel's lies where only torch's own libraries look for it; one of them brings it in.
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libcaffe2_nvrtc.so"))
        return ctypes.CDLL(name)


def _as_c(argument: Argument) -> c_void_p | c_int | c_float:
    if argument is None or isinstance(argument, Tensor):
        return c_void_p(None if argument is None else argument.data_ptr())
    return c_int(argument) if isinstance(argument, int) else c_float(argument)
