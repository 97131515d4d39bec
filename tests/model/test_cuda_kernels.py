"""What can be seen of our CUDA kernels without a GPU; with one, tests/model runs over them as "recorded"."""

import re
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from gemma3n_appliance.model import cuda_kernels, cuda_source, nvrtc, quantize
from gemma3n_appliance.model.cuda_kernels import CudaKernels
from gemma3n_appliance.model.cuda_layer import CudaPacked
from gemma3n_appliance.model.cuda_weights import Held
from gemma3n_appliance.model.linear import GROUP
from gemma3n_appliance.model.rotation import Rotation
from gemma3n_appliance.model.static_step import StaticStep

from . import emulated_cuda

CUDA = torch.device("cuda")

CONFIG = SimpleNamespace(
    num_attention_heads=8,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    hidden_size=2048,
    head_dim=256,
    intermediate_size=[8192, 8192],
    laurel_rank=64,
)


class Module:
    """Takes launches and compares what is given with what the source declares."""

    launched: ClassVar[list[str]] = []

    def __init__(self, declared: dict[str, list[type]]) -> None:
        self._declared = declared

    def kernel(self, name: str, *, overlaps: bool = False):
        def launch(grid, block, *arguments, shared_bytes=0):
            given = [torch.Tensor if each is None else type(each) for each in arguments]
            assert given == self._declared[name], name
            assert all(size > 0 for size in (*grid, *block))
            assert block[0] <= 1024
            assert shared_bytes <= 48 * 1024
            self.launched.append(name)

        return launch


@pytest.fixture(scope="module")
def declared() -> dict[str, list[type]]:
    return emulated_cuda.parameters(4)


@pytest.fixture
def kernels(monkeypatch, declared) -> CudaKernels:
    monkeypatch.setattr(cuda_source, "module", lambda *_: Module(declared))
    monkeypatch.setattr(nvrtc, "DEVICE", "cpu")
    monkeypatch.setattr(nvrtc, "num_multiprocessors", lambda: 132)
    monkeypatch.setattr(Module, "launched", [])
    made = cuda_kernels.load(CONFIG, torch.bfloat16, CUDA, None)
    assert made is not None
    return made


def numbers(*size: int) -> torch.Tensor:
    return torch.ones(*size, dtype=torch.bfloat16)


def test_every_kernel_is_given_what_its_source_declares(kernels, declared):
    rows, norm, router, mixing = numbers(3, 5, 2048), numbers(2048), numbers(4, 2048), numbers(25, 4)
    normed = kernels.predict(rows, router, norm, mixing, norm)
    gated, following = kernels.join(normed, normed, rows, normed, (norm, norm, norm))
    kernels.correct(rows, gated, following, norm, router, norm, mixing)
    kernels.spread(rows, following, norm)
    assert kernels.activate(numbers(3, 16384), None).shape == (3, 8192)
    kernels.activate(numbers(3, 16384), 1.6)
    assert kernels.end(kernels.begin(following, numbers(3, 6144), 0.1), rows, norm, 0.1).shape == (3, 2048)
    step = StaticStep(None, torch.arange(3), torch.arange(3)[:, None], 3000)
    cache, rotation = numbers(4, 512, 2, 2, 256), Rotation(numbers(3, 3, 256), numbers(3, 3, 256), 1, None)
    projected = numbers(3, 3136)
    queries = kernels.rotate(
        projected, numbers(12, 256), rotation, step.slot_ids, step.positions, cache, 8, num_rotated=12
    )
    assert queries.shape == (3, 8, 256)
    for window, owns in ((None, True), (512, False)):
        seen = kernels.attend(projected, numbers(256), rotation, step, cache, 8, window, owns=owns)
        assert seen.shape == (3, 2048)
    dense, int8 = Held("numbers", numbers(100, 2048)), Held("int8", numbers(100, 2048), norm)
    kernels.multiply(normed, dense, numbers(3, 100))
    assert kernels.multiply(numbers(15, 2048), int8).shape == (15, 100)
    for_one_token(kernels, rows[:1], (router, norm, mixing), norm)
    launched = {re.sub("int[48]", "numbers", name) for name in Module.launched}
    assert launched == {re.sub("int[48]", "numbers", name) for name in declared}


def for_one_token(kernels: CudaKernels, rows: torch.Tensor, router, norm: torch.Tensor) -> None:
    one, held = kernels.of_one, Held("numbers", numbers(8192, 2048))
    for spread_norm in (None, norm):
        mixed, normed, projected = one.inputs(
            rows, spread_norm, router, norm, Held("int8", held.weight, norm)
        )
    found = one.outputs(normed, Held("int4", held.weight, norm), projected[:, -64:], Held("int8", norm, norm))
    found, norms = (*found, mixed, normed), (norm, norm, norm)
    gated, activated = one.gated(found, norms, held)
    assert activated.shape == (1, 4096)
    gated, following, gates = one.gates(found, norms, held, 4096)
    fed = one.down_live(one.live(following, gates, held.weight, 1.6), numbers(4096, 2048))
    chosen = one.chosen(mixed, gated, fed, norm, router, Held("numbers", numbers(256, 2048)), norm, rows)
    assert chosen.shape == (1, 256)


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

    monkeypatch.setattr(cuda_source, "module", fail)
    assert cuda_kernels.load(CONFIG, torch.bfloat16, CUDA, None) is None
    assert "libnvrtc.so.12" in capsys.readouterr().out
    for change in (
        {"head_dim": 12},
        {"num_attention_heads": 32},
        {"intermediate_size": 30},
        {"laurel_rank": 3},
    ):
        odd = SimpleNamespace(**vars(CONFIG) | change)
        assert cuda_kernels.load(odd, torch.bfloat16, CUDA, None) is None
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
    options = cuda_source.options(torch.bfloat16, 4)
    assert [cuda_source.module(options, tmp_path) for _ in range(2)] == [b"code"] * 2
    assert len(compiled) == 1
    assert cuda_source.module(cuda_source.options(torch.float32, 4), tmp_path) == b"code"
    assert len(compiled) == 2
    for file in (tmp_path / "kernels").iterdir():
        file.write_bytes(b"")
    assert [cuda_source.module(options, tmp_path) for _ in range(2)] == [b"code"] * 2
    assert len(compiled) == 3
    assert "compiled again" in capsys.readouterr().out
    (tmp_path / "a file").touch()
    assert cuda_source.module(options, tmp_path / "a file") == b"code"
    assert "compiles them again" in capsys.readouterr().out
