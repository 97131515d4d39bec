"""CUDA source → kernels to launch, on a machine that has no compiler: NVRTC comes with every CUDA torch.

Of both libraries' documented interfaces, these few functions: https://docs.nvidia.com/cuda/nvrtc and
https://docs.nvidia.com/cuda/cuda-driver-api. torch's own ``torch.cuda._compile_kernel`` is private, is
missing before 2.9, and asks for a CUDA toolkit.
"""

import ctypes
import struct
from collections.abc import Sequence
from ctypes import byref, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p, pointer
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

Argument = Tensor | int | float | None
Size = tuple[int, int, int]

DEVICE = "cuda"

_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_FIRST_TO_OVERLAP = (9, 0)
_FIRST_TO_RECORD_OVERLAP = 12030  # CUDA 12.3


class CudaError(RuntimeError):
    """NVRTC or the driver refused something."""


class Module:
    """Machine code on the current GPU."""

    def __init__(self, image: bytes) -> None:
        """Loads what `compiled` made. Raises CudaError where the driver does not take it."""
        torch.zeros(1, device=DEVICE)  # what comes next needs torch's context
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._launch = getattr(self._driver, "cuLaunchKernelEx", None)
        if self._launch is None:
            raise CudaError("the driver is older than CUDA 11.8: update it")
        self._handle = c_void_p()
        self._check(self._driver.cuModuleLoadData(byref(self._handle), image))

    def kernel(self, name: str, *, overlaps: bool = False) -> "Kernel":
        """Returns one that is ``extern "C"``.

        One that ``overlaps`` may begin before the one ahead of it has ended, and waits for that by itself.
        """
        function = c_void_p()
        self._check(self._driver.cuModuleGetFunction(byref(function), self._handle, name.encode()))
        return Kernel(self, function, overlaps and self._can_overlap)

    @cached_property
    def _can_overlap(self) -> bool:
        version = c_int()
        self._check(self._driver.cuDriverGetVersion(byref(version)))
        is_new_enough = torch.cuda.get_device_capability() >= _FIRST_TO_OVERLAP
        return is_new_enough and version.value >= _FIRST_TO_RECORD_OVERLAP

    def launch(self, function: c_void_p, config: "_LaunchConfig", pointers: "ctypes.Array[c_void_p]") -> None:
        """Launches on torch's current stream; ``pointers`` are to the arguments."""
        config.stream = torch.cuda.current_stream().cuda_stream
        self._check(self._launch(byref(config), function, pointers, None))

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


class Arguments:
    """A kernel's arguments, each in eight bytes of its own."""

    def __init__(self, number: int) -> None:
        self._values = (c_uint64 * number)()
        start = ctypes.addressof(self._values)
        self.pointers = (c_void_p * number)(*(start + 8 * index for index in range(number)))

    def fill(self, arguments: Sequence[Argument]) -> None:
        """Puts tensors there as pointers, numbers as int and float."""
        for index, argument in enumerate(arguments):
            self._values[index] = _bits(argument)


class Kernel:
    """Runs ``kernel(grid, block, *arguments)``, in one thread at a time, as torch's streams are used."""

    def __init__(self, module: Module, function: c_void_p, overlaps: bool) -> None:
        self._module = module
        self._function = function
        self._arguments = Arguments(0)
        self._config = _LaunchConfig()
        if overlaps:
            self._config.attributes = pointer(_LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1))
            self._config.num_attributes = 1

    def __call__(self, grid: Size, block: Size, *arguments: Argument, shared_bytes: int = 0) -> None:
        """Launches it; of shared memory, a kernel has 48 KB at most."""
        if len(self._arguments.pointers) != len(arguments):
            self._arguments = Arguments(len(arguments))
        # What an argument was is copied when the kernel is launched.
        self._arguments.fill(arguments)
        config = self._config
        config.grid, config.block, config.shared_bytes = grid, block, shared_bytes
        self._module.launch(self._function, config, self._arguments.pointers)


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
    _succeed(nvrtc, nvrtc.nvrtcCreateProgram(byref(program), source.encode(), b"kernels", 0, None, None))
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


def _bits(argument: Argument) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        return int.from_bytes(struct.pack("<f", argument), "little")
    return (argument or 0) & 0xFFFFFFFF
