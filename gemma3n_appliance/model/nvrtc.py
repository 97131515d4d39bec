"""CUDA source → kernels to launch, on a machine that has no compiler: NVRTC comes with every CUDA torch.

Of both libraries' documented interfaces, these few functions: https://docs.nvidia.com/cuda/nvrtc and
https://docs.nvidia.com/cuda/cuda-driver-api. torch's own ``torch.cuda._compile_kernel`` is private, is
missing before 2.9, and asks for a CUDA toolkit.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

Argument = Tensor | int | float | None
Size = tuple[int, int, int]

DEVICE = "cuda"

_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_ALWAYS_ALLOWED_BYTES = 48 * 1024
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_FIRST_TO_OVERLAP = (9, 0)


class CudaError(RuntimeError):
    """NVRTC or the driver refused something."""


class Module:
    """Machine code on the current GPU."""

    def __init__(self, image: bytes) -> None:
        """Loads what `compiled` made. Raises CudaError where the driver does not take it."""
        torch.zeros(1, device=DEVICE)  # what comes next needs torch's context
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._handle = c_void_p()
        self._check(self._driver.cuModuleLoadData(byref(self._handle), image))

    def kernel(self, name: str, *, overlaps: bool = False) -> "Kernel":
        """Returns one that is ``extern "C"``.

        One that ``overlaps`` may begin before the one ahead of it has ended, and waits for that by itself.
        """
        function = c_void_p()
        self._check(self._driver.cuModuleGetFunction(byref(function), self._handle, name.encode()))
        return Kernel(self, function, overlaps and torch.cuda.get_device_capability() >= _FIRST_TO_OVERLAP)

    def allow_shared(self, function: c_void_p, shared_bytes: int) -> None:
        """Lets a kernel ask for more dynamic shared memory than any may."""
        self._check(self._driver.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED_SIZE, c_int(shared_bytes)))

    def launch(self, function: c_void_p, config: "_LaunchConfig", arguments: Sequence[Argument]) -> None:
        """Launches on torch's current stream."""
        values = [_as_c(argument) for argument in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        config.stream = torch.cuda.current_stream().cuda_stream
        self._check(self._driver.cuLaunchKernelEx(byref(config), function, pointers, None))

    def _check(self, code: int) -> None:
        if code:
            text = c_char_p()
            self._driver.cuGetErrorString(code, byref(text))
            raise CudaError((text.value or b"unknown error").decode())


class _LaunchAttribute(ctypes.Structure):
    """The driver's ``CUlaunchAttribute``, as far as one kind of it goes."""

    _fields_: ClassVar = [("id", c_int), ("padding", c_int), ("value", c_int), ("rest", c_char * 60)]


class _LaunchConfig(ctypes.Structure):
    """The driver's ``CUlaunchConfig``."""

    _fields_: ClassVar = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("num_attributes", c_uint),
    ]


class Kernel:
    """Runs ``kernel(grid, block, *arguments)``: tensors are passed as pointers, numbers as int and float."""

    def __init__(self, module: Module, function: c_void_p, overlaps: bool) -> None:
        self._module = module
        self._function = function
        self._allowed_bytes = _ALWAYS_ALLOWED_BYTES
        self._overlap = _LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1) if overlaps else None

    def __call__(self, grid: Size, block: Size, *arguments: Argument, shared_bytes: int = 0) -> None:
        """Launches it."""
        if shared_bytes > self._allowed_bytes:
            self._module.allow_shared(self._function, shared_bytes)
            self._allowed_bytes = shared_bytes
        attributes = ctypes.pointer(self._overlap) if self._overlap else None
        config = _LaunchConfig(grid, block, shared_bytes, None, attributes, int(attributes is not None))
        self._module.launch(self._function, config, arguments)


def num_multiprocessors() -> int:
    """Returns the current GPU's."""
    return int(torch.cuda.get_device_properties(DEVICE).multi_processor_count)


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
