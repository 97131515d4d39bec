"""Checkpoints to measure with: Gemma 3n's text model in shapes of several sizes, with random weights."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

DEMO = Path(__file__).parents[1] / "demo/checkpoint_files"
COPIED_FILES = ("tokenizer.json", "chat_template.jinja", "generation_config.json")
TOKENIZER_CONFIG = "tokenizer_config.json"
# As many ids as the tokenizer that is copied from the demo, which gets other ones when it is trained anew.
VOCAB_SIZE = json.loads((DEMO / "config.json").read_text())["text_config"]["vocab_size"]
END_IDS = (1, 6)


@dataclass(frozen=True)
class Shape:
    """What a model is measured for, and its size; the rest is as in Google's models."""

    name: str
    num_layers: int
    num_shared: int
    hidden_size: int
    intermediate_size: int
    num_heads: int = 8
    head_dim: int = 64
    table_rows: int = VOCAB_SIZE
    table_width: int = 64
    dtype: str = "float32"
    laurel_rank: int | None = None  # as large a share of the hidden size as in Google's

    def __str__(self) -> str:
        return f"{self.dtype}, {self.name}"


E2B_LIKE = Shape("30 layers, 10 shared", 30, 10, 512, 2048)
E4B_LIKE = Shape("35 layers, 15 shared", 35, 15, 512, 2048)
MEMORY_BOUND = Shape("30 layers, 10 shared, hidden 1024", 30, 10, 1024, 6144, head_dim=128, table_width=128)
LAUNCH_BOUND = Shape("35 layers, hidden 64", 35, 15, 64, 128, 4, 16, table_width=8, dtype="bfloat16")
LARGE_TABLE = Shape(
    "a table of 2 GB in bfloat16",
    num_layers=30,
    num_shared=10,
    hidden_size=256,
    intermediate_size=1024,
    num_heads=4,
    head_dim=32,
    table_rows=262_144,
    table_width=128,
    dtype="bfloat16",
)
# Of the published sizes, but for ids that the table has not.
FULL_SIZE = {"table_rows": 262_144, "table_width": 256, "head_dim": 256, "dtype": "bfloat16"}
E2B = Shape("E2B", 30, 10, 2048, 8192, **FULL_SIZE)
E4B = Shape("E4B", 35, 15, 2048, 16384, **FULL_SIZE)


def config(shape: Shape) -> Gemma3nTextConfig:
    """Returns the configuration for a shape."""
    layer_types = (["sliding_attention"] * 4 + ["full_attention"]) * shape.num_layers
    num_sparse = min(10, shape.num_layers)
    return Gemma3nTextConfig(
        vocab_size=max(VOCAB_SIZE, shape.table_rows),
        vocab_size_per_layer_input=shape.table_rows,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_kv_shared_layers=shape.num_shared,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=2,
        head_dim=shape.head_dim,
        hidden_size_per_layer_input=shape.table_width,
        laurel_rank=shape.laurel_rank or max(4, shape.hidden_size // 32),
        layer_types=layer_types[: shape.num_layers],
        activation_sparsity_pattern=[0.95] * num_sparse + [0.0] * (shape.num_layers - num_sparse),
        sliding_window=512,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=list(END_IDS),
    )


def at(cache: Path, shape: Shape) -> Path:
    """Returns the folder of a checkpoint, making it where the cache does not have it."""
    made_of = str(asdict(shape)).encode() + Path(__file__).read_bytes()
    made_of += b"".join((DEMO / name).read_bytes() for name in COPIED_FILES)
    directory = cache / hashlib.sha256(made_of).hexdigest()[:12]
    if not directory.exists():
        partial = directory.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model(shape).save_pretrained(partial)
        for name in COPIED_FILES:
            shutil.copy(DEMO / name, partial)
        tokenizer = json.loads((DEMO / TOKENIZER_CONFIG).read_text())
        del tokenizer["processor_class"]  # there is nothing to see or hear with
        (partial / TOKENIZER_CONFIG).write_text(json.dumps(tokenizer))
        partial.rename(directory)
    return directory


@torch.no_grad()
def model(shape: Shape) -> Gemma3nForCausalLM:
    """Returns transformers' model with random weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        made = Gemma3nForCausalLM(config(shape)).to(getattr(torch, shape.dtype))
    # Billions of random numbers take a CPU minutes.
    made.to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    made.init_weights()
    for parameter in made.parameters():
        parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(0.0, 0.02)
    made.get_input_embeddings().weight[_never_said()] = 0.0
    return made.eval()


def _never_said() -> list[int]:
    """Ids that would end an answer, and lone bytes, whose text transformers' server stumbles over."""
    vocabulary = json.loads((DEMO / "tokenizer.json").read_text())["model"]["vocab"]
    return [token_id for token, token_id in vocabulary.items() if token.startswith("<")]
