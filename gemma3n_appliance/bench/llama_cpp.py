"""llama.cpp over the same weights, in this project's and in its own kinds, where it has been built."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from ..model.text_weights import Quantization
from . import checkpoints
from .checkpoints import Shape
from .compute import NUM_FIRST, NUM_STEPS, PROMPT, Measure, Ours, Timed, decode_step, in_turns
from .report import Row

BUILT = Path(__file__).parents[2] / ".llama-cpp"
_PROGRAMS = BUILT / "build/bin"
_TABLE_WIDTH, _LAUREL_RANK = 256, 64
# Of its own kinds of weights, those with as many bits.
_KINDS: dict[Quantization, str] = {"none": "f32", "int8": "q8_0", "int4": "q4_0"}
# It converts tokenizers of this kind alone, and does not miss the words: its bench speaks in numbers.
_MAKE_TOKENIZER = """
import sys
from sentencepiece import SentencePieceTrainer
SentencePieceTrainer.train(
    sentence_iterator=iter(["no words"]), model_prefix=sys.argv[1], model_type="char", vocab_size=9
)
"""


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields; nothing where ``bin/setup-llama-cpp`` has not built it."""
    if not (BUILT / "stamp").exists():
        print("llama.cpp: nothing is measured, bin/setup-llama-cpp has not built it", file=sys.stderr)
        return
    for shape in map(_known, (checkpoints.E2B_LIKE, checkpoints.E4B_LIKE)):
        what = f"prefill of {PROMPT} tokens, {shape}"
        yield _row(cache, shape, "none", what, "prefill", num_rounds)
    shape = _known(checkpoints.MEMORY_BOUND)
    for quantization in _KINDS:
        what = decode_step(1, shape, quantization)
        yield _row(cache, shape, quantization, what, "decode", num_rounds)


def _known(shape: Shape) -> Shape:
    """Returns what it loads: tables of one width, and one rank of LAuReL, as in Google's models."""
    name = f"{shape.name}, table {_TABLE_WIDTH} wide"
    return replace(shape, name=name, table_width=_TABLE_WIDTH, laurel_rank=_LAUREL_RANK)


def _row(
    cache: Path, shape: Shape, quantization: Quantization, what: str, measure: Measure, num_rounds: int
) -> Row:
    directory, kind = checkpoints.at(cache, shape), _KINDS[quantization]
    ours, file = Ours(directory, shape, quantization), converted(directory, kind)
    runs = {"ours": getattr(ours, measure), "theirs": lambda: _timed(file, measure)}
    in_ms = in_turns(num_rounds, runs)
    return Row(what, "ms", in_ms["ours"], in_ms["theirs"], f"llama.cpp, {kind}")


def converted(directory: Path, kind: str) -> Path:
    """Returns a checkpoint in llama.cpp's format, making it where there is none beside it."""
    file = directory.with_name(f"{directory.name}-{kind}.gguf")
    if file.exists():
        return file
    partial = file.with_suffix(".partial")
    if kind == "f32":
        _convert(directory, partial)
    else:
        _run(_PROGRAMS / "llama-quantize", "--pure", converted(directory, "f32"), partial, kind)
    return partial.rename(file)


def _convert(directory: Path, file: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        for path in directory.iterdir():
            (Path(temporary) / path.name).symlink_to(path)
        save_file(_never_read(directory), f"{temporary}/model-never-read.safetensors")
        _run(sys.executable, "-c", _MAKE_TOKENIZER, f"{temporary}/tokenizer")
        script = BUILT / "llama.cpp/convert_hf_to_gguf.py"
        _run(sys.executable, script, temporary, "--outfile", file, "--outtype", "f32")


def _never_read(directory: Path) -> dict[str, Tensor]:
    """Returns keys' and values' weights for layers that read those of others, as Google's files have them."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    keys = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "k_proj": (keys, config.hidden_size),
        "v_proj": (keys, config.hidden_size),
    }
    shapes["k_norm"] = (config.head_dim,)
    first = config.num_hidden_layers - config.num_kv_shared_layers
    return {
        f"model.layers.{index}.self_attn.{name}.weight": torch.zeros(shape)
        for index in range(first, config.num_hidden_layers)
        for name, shape in shapes.items()
    }


def _timed(file: Path, measure: Measure) -> Timed:
    """Has it read a prompt, or say tokens after a few; what it found it does not tell."""
    asked = {
        "prefill": ["-p", PROMPT, "-n", 0],
        "decode": ["-p", 0, "-n", NUM_STEPS, "-d", NUM_FIRST],
    }[measure]
    threads = ["-t", torch.get_num_threads()]
    told = _run(_PROGRAMS / "llama-bench", "-m", file, *threads, *asked, "-r", 1, "-o", "json")
    [measured] = json.loads(told)
    return Timed(measured["avg_ns"] / 1e9 / (NUM_STEPS if measure == "decode" else 1), [])


def _run(*command: object) -> str:
    """Returns what a program prints. Raises RuntimeError with what it complains of, where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
