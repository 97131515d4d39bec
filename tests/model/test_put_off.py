"""What a start does without. Each in a process of its own: here, others have imported it by now."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PUT_OFF = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")


def _run(script: str, *arguments: str | Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


def test_a_server_that_has_answered_every_sense_has_not_imported_torchs_compiler():
    script = """
import sys
from gemma3n_appliance import bootstrap
from gemma3n_appliance.engine.pulse import Pulse
from gemma3n_appliance.settings import Settings
settings = Settings(_env_file=None, model_name=sys.argv[1], device="cpu", context_length=2048)
model = bootstrap._load_model(settings, bootstrap.Prompts(settings), Pulse(600))
assert model.has_vision and model.has_audio
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""
    checkpoint = ROOT / "gemma3n_appliance/demo/checkpoint_files"
    assert _run(script, checkpoint, *PUT_OFF) == ""


def test_what_asks_for_the_compiler_later_has_it():
    script = """
import gemma3n_appliance.model, sys, torch, torchvision
from transformers.masking_utils import TransformGetItemToIndex
assert "torch._dynamo" not in sys.modules
with TransformGetItemToIndex():
    pass
from torch._dynamo.utils import is_compile_supported
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") == is_compile_supported("cpu")
assert torch.distributed.is_available()
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    assert _run(script) == "2.0"


def test_what_needs_more_of_it_while_it_is_put_off_has_it_or_has_it_afterwards():
    script = """
import runpy
import torch
compiler_put_off = runpy.run_path("gemma3n_appliance/model/put_off.py")["compiler_put_off"]
try:
    with compiler_put_off():
        from torch._dynamo.exc import Unsupported
except ImportError:
    pass
with compiler_put_off():
    assert not torch.distributed.is_available()
    assert torch.compiler.disable(print) is print
    from torch._dynamo import optimize
from torch._dynamo.exc import Unsupported
print(optimize.__module__, Unsupported.__module__, torch.distributed.is_available())
"""
    assert _run(script) == "torch._dynamo.eval_frame torch._dynamo.exc True"
