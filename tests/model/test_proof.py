"""The script that proves torch, with a stand-in for torch before the real one."""

import subprocess
import sys
from pathlib import Path

import pytest

from gemma3n_appliance.host import diagnosis

PROOF = Path(diagnosis.__file__).parents[1] / "model/proof.py"
# What the script asks of torch, with a GPU that answers as told.
STAND_IN = """
__version__ = "2.11.0"
bfloat16 = None
class OutOfMemoryError(RuntimeError): ...
class cuda:
    is_available = staticmethod(lambda: {has_gpu})
    get_arch_list = staticmethod(lambda: ["sm_80", "sm_90"])
    get_device_name = staticmethod(lambda: "Orin (nvgpu)")
class ones:
    def __init__(self, *_, device, **__): self.device = type("device", (), {{"type": device}})
    def __matmul__(self, _):
        {product}
        return self
    def float(self): return self
    def sum(self): return self
    def item(self): return {total}
"""
NO_KERNEL = 'raise RuntimeError("CUDA error: no kernel image is available for execution\\nmore")'
NO_MEMORY = 'raise OutOfMemoryError("CUDA out of memory")'
NVMAP = 'raise RuntimeError("NvMapMemAllocInternalTagged: error 12")'


def prove(*options: str, torch: str | None = None, directory: Path) -> subprocess.CompletedProcess[str]:
    script = PROOF
    if torch is not None:
        (directory / "torch.py").write_text(torch)
        script = directory / "proof.py"
        script.write_text(PROOF.read_text())
    isolated = [] if torch is not None else ["-I"]
    command = [sys.executable, *isolated, script, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_torch_computes_here(tmp_path):
    proved = prove(directory=tmp_path)
    assert (proved.returncode, "computes on" in proved.stdout) == (0, True)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ('raise ImportError("libcusparseLt.so.0: cannot open shared object file")', "libcusparselt0"),
        (STAND_IN.format(has_gpu=False, product="", total=0), "does not find the GPU"),
        (STAND_IN.format(has_gpu=True, product="", total=1.0), "computes wrongly on cuda"),
        (
            STAND_IN.format(has_gpu=True, product=NO_KERNEL, total=0),
            "built for sm_80, sm_90, does not compute",
        ),
        (STAND_IN.format(has_gpu=True, product=NO_MEMORY, total=0), "has no free memory"),
        (STAND_IN.format(has_gpu=True, product=NVMAP, total=0), "has no free memory"),
    ],
)
def test_a_torch_that_does_not_fit_is_told_apart(tmp_path, torch, said):
    proved = prove("--gpu", torch=torch, directory=tmp_path)
    assert (proved.returncode, proved.stderr) == (1, "")
    assert said in proved.stdout


def test_a_torch_that_fits_is_named_with_the_gpu(tmp_path):
    torch = STAND_IN.format(has_gpu=True, product="", total=64.0**3)
    proved = prove("--gpu", torch=torch, directory=tmp_path)
    assert (proved.returncode, proved.stdout) == (0, "torch 2.11.0 computes on Orin (nvgpu)\n")
