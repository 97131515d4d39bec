"""What can be seen of our CUDA kernels without a GPU; with one, tests/model runs over them as "recorded"."""

import re
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from gemma3n_appliance.model import cuda_kernels, nvrtc, quantize
from gemma3n_appliance.model.cuda_kernels import SOURCE, CudaKernels
from gemma3n_appliance.model.cuda_layer import CudaPacked
from gemma3n_appliance.model.linear import GROUP

CONFIG = SimpleNamespace(
    num_attention_heads=8,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    hidden_size=2048,
    head_dim=256,
    intermediate_size=[8192, 8192],
)


def parameters(name: str) -> list[type]:
    """What the source's kernel takes, as the types that are passed for it."""
    source = SOURCE.read_text()
    tokens = re.sub(r"_\d$", "_##TOKENS", name)
    listed = re.search(
        rf"__global__ void (?:__launch_bounds__\(1024\) )?{tokens}\((.*?)\)", source, re.DOTALL
    )
    assert listed, name
    declared = [each.replace("\\", " ").strip() for each in listed[1].split(",")]
    return [torch.Tensor if "*" in each else float if "float" in each else int for each in declared]


class Module:
    """Takes launches and compares what is given with what the source declares."""

    launched: ClassVar[list[str]] = []

    def __init__(self, _image: bytes) -> None: ...

    def kernel(self, name: str, _shared_bytes: int = 0):
        def launch(grid, block, *arguments, shared_bytes=0):
            given = [torch.Tensor if each is None else type(each) for each in arguments]
            assert given == parameters(name), name
            assert all(size > 0 for size in (*grid, *block))
            assert block[0] <= 1024
            assert shared_bytes <= 48 * 1024
            self.launched.append(name)

        return launch


@pytest.fixture
def kernels(monkeypatch) -> CudaKernels:
    zeros = torch.zeros
    monkeypatch.setattr(cuda_kernels, "_module", lambda *_: Module(b""))
    monkeypatch.setattr(torch, "zeros", lambda *size, dtype, device: zeros(*size, dtype=dtype))
    monkeypatch.setattr(Module, "launched", [])
    made = cuda_kernels.load(CONFIG, torch.bfloat16, None)
    monkeypatch.undo()
    assert made is not None
    return made


def numbers(*size: int) -> torch.Tensor:
    return torch.ones(*size, dtype=torch.bfloat16)


def test_every_kernel_is_given_what_its_source_declares(kernels):
    rows, norm, router, mixing = numbers(3, 5, 2048), numbers(2048), numbers(4, 2048), numbers(25, 4)
    normed = kernels.predict(rows, router, norm, mixing, norm)
    gated, following = kernels.join(normed, normed, rows, normed, (norm, norm, norm))
    kernels.correct(rows, gated, following, norm, router, norm, mixing)
    kernels.spread(rows, following, norm)
    assert kernels.activate(numbers(3, 16384), None).shape == (3, 8192)
    kernels.activate(numbers(3, 16384), 1.6)
    slots, cache = torch.arange(3), numbers(4, 512, 2, 2, 256)
    tables = numbers(3, 12, 256), numbers(3, 12, 256)
    queries = kernels.rotate(
        numbers(3, 3136), numbers(12, 256), tables, slots, slots[:, None], cache, num_heads=8, num_rotated=12
    )
    assert queries.shape == (3, 8, 256)
    for window, longest in ((None, 1), (512, 3000)):
        assert kernels.attend(queries, cache, slots, slots[:, None], window, longest).shape == (3, 2048)
    kernels.multiply("numbers", normed, numbers(100, 2048), None, numbers(3, 100))
    assert kernels.multiply("int8", numbers(11, 2048), numbers(100, 2048), norm).shape == (11, 100)
    kernels.multiply("int4", normed, numbers(100, 1024), norm)
    launched = {"multiply_int8_8", "multiply_int8_2", "multiply_int8_1"}
    assert launched <= set(Module.launched)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_for_many_tokens_packed_weights_are_the_numbers_they_stand_for(bits):
    torch.manual_seed(0)
    weight, x = torch.randn(32, 4 * GROUP), torch.randn(70, 4 * GROUP)
    tensors = quantize.quantize(weight, bits)
    packed = CudaPacked(None, tensors)
    assert packed.num_bytes < weight.nbytes / 2
    # Torch's own kernels multiply by the same numbers, in bfloat16.
    found, expected = packed(x), quantize.linear(tensors)(x)
    assert (found - expected).norm() < 0.01 * expected.norm()
    chosen = packed.chosen(x, torch.full((70, 32), 2.0))
    assert torch.allclose(chosen, 2 * torch.nn.functional.gelu(found, approximate="tanh"))


def test_where_there_are_none_torchs_are_used_and_a_warning_says_why(monkeypatch, capsys):
    def fail(*_):
        raise OSError("libnvrtc.so.12: cannot open shared object file")

    monkeypatch.setattr(cuda_kernels, "_module", fail)
    assert cuda_kernels.load(CONFIG, torch.bfloat16, None) is None
    assert "libnvrtc.so.12" in capsys.readouterr().out
    for change in ({"head_dim": 12}, {"num_attention_heads": 32}, {"intermediate_size": 30}):
        odd = SimpleNamespace(**vars(CONFIG) | change)
        assert cuda_kernels.load(odd, torch.bfloat16, None) is None
        assert "do not suit this model" in capsys.readouterr().out


def test_what_is_compiled_is_kept_for_the_next_start(monkeypatch, tmp_path, capsys):
    compiled = []

    def load(image: bytes) -> bytes:
        if image != b"code":
            raise nvrtc.CudaError("device kernel image is invalid")
        return image

    monkeypatch.setattr(nvrtc, "Module", load)
    monkeypatch.setattr(nvrtc, "architecture", lambda: "sm_87")
    monkeypatch.setattr(nvrtc, "compiled", lambda *given: compiled.append(given) or b"code")
    options = cuda_kernels.options(torch.bfloat16, 4)
    assert [cuda_kernels._module(options, tmp_path) for _ in range(2)] == [b"code"] * 2
    assert len(compiled) == 1
    assert cuda_kernels._module(cuda_kernels.options(torch.float32, 4), tmp_path) == b"code"
    assert len(compiled) == 2
    for file in (tmp_path / "kernels").iterdir():
        file.write_bytes(b"")
    assert [cuda_kernels._module(options, tmp_path) for _ in range(2)] == [b"code"] * 2
    assert len(compiled) == 3
    assert "compiled again" in capsys.readouterr().out
    (tmp_path / "a file").touch()
    assert cuda_kernels._module(options, tmp_path / "a file") == b"code"
    assert "compiles them again" in capsys.readouterr().out
