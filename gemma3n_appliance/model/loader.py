"""A checkpoint's directory → a model ready to run."""

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog
import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    Gemma3nConfig,
    Gemma3nForCausalLM,
    Gemma3nForConditionalGeneration,
    Gemma3nTextConfig,
)

from ..engine.runner import LoadedModel
from ..errors import ApplianceError, ModelLoadError
from . import pieces
from .decoder import Decoder
from .kv_cache import KVCache
from .memory import named_when_exhausted
from .runner import ReferenceRunner
from .soft_tokens import MediaEncoder
from .torchvision_ops import make_torchvision_importable

log = structlog.get_logger(__name__)

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "bfloat16", "float32"]
_SMALLER_MODEL = "Serve a smaller model, or lower NUM_SLOTS."

Model = Gemma3nForConditionalGeneration | Gemma3nForCausalLM


def load(
    directory: Path, *, device: Device, dtype: DType, num_slots: int, context_length: int
) -> LoadedModel:
    """Loads a Gemma 3n checkpoint in the hub's format; never asks the network for anything.

    Where timm or torchvision are missing, a multimodal checkpoint is loaded for text alone.

    Raises:
        ModelLoadError: files are missing, broken or not Gemma 3n's, or there is no such device.
        InsufficientMemoryError: the model does not fit into memory.
    """
    started = time.monotonic()
    torch_device = _device(device)
    with _named_when_broken(directory), named_when_exhausted("the model", _SMALLER_MODEL):
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        model = _model(directory, _dtype(dtype, torch_device)).to(torch_device)
        encoder = _encoder(model, directory)
        runner = _runner(model, encoder, num_slots, context_length)
        loaded = LoadedModel(
            runner=runner,
            pieces=pieces.read(tokenizer, model.config.get_text_config().vocab_size),
            eos_token_ids=_eos_token_ids(model, tokenizer),
            device=str(torch_device),
            has_vision=encoder is not None,
            has_audio=encoder is not None,
        )
    _report(loaded, model, directory, time.monotonic() - started)
    return loaded


def _device(device: Device) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("DEVICE=cuda, but torch finds no GPU. Install a CUDA build of torch.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Gemma 3n was trained in bfloat16, and float16 overflows (huggingface/transformers#39972).

    A CPU without AVX-512 prefills 5.5 times slower in bfloat16 than in float32, and its results there
    depend on what else is in the batch.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


@contextmanager
def _named_when_broken(directory: Path) -> Iterator[None]:
    remedy = "Run `gemma3n-appliance download`, or set MODEL_NAME to a directory with a Gemma 3n model."
    if not (directory / "config.json").is_file():
        raise ModelLoadError(f"There is no model in {directory}. {remedy}")
    try:
        yield
    except ApplianceError:
        raise
    except Exception as error:  # what broken files make three libraries raise has no narrower common type
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelLoadError(f"The model in {directory} cannot be loaded: {reason} {remedy}") from error


def _model(directory: Path, dtype: torch.dtype) -> Model:
    transformers.logging.set_verbosity_error()  # or it lists every weight that text alone does not need
    transformers.logging.disable_progress_bar()
    model_class, config = _class_and_config(directory)
    multimodal = model_class is Gemma3nForConditionalGeneration
    model, loading = model_class.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        # Our masks are boolean: eager attention would add them instead of obeying them.
        attn_implementation={"text_config": "sdpa"} if multimodal else "sdpa",
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers and goes on.
    if lacking := sorted(map(str, loading["missing_keys"] | loading["mismatched_keys"])):
        raise ValueError(f"{len(lacking)} weights are missing or misshapen, such as {lacking[0]}.")
    return model


def _class_and_config(directory: Path) -> tuple[type[Model], Gemma3nConfig | Gemma3nTextConfig]:
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if isinstance(config, Gemma3nTextConfig):
        log.info("the checkpoint has no vision and no audio: serving text only")
        return Gemma3nForCausalLM, config
    if not isinstance(config, Gemma3nConfig):
        raise ValueError(f"It is a {config.model_type} model.")
    if not _towers_importable():
        return Gemma3nForCausalLM, config.text_config
    return Gemma3nForConditionalGeneration, config


def _towers_importable() -> bool:
    try:
        make_torchvision_importable()
        for library in ("timm", "torchvision"):
            importlib.import_module(library)
    except (ImportError, RuntimeError) as error:
        log.warning("serving text only: install timm, and torchvision to match torch", reason=str(error))
        return False
    return True


def _encoder(model: Model, directory: Path) -> MediaEncoder | None:
    if isinstance(model, Gemma3nForCausalLM):
        return None
    from .encoders import Encoders  # imports torchvision, which is known to be there by now

    return Encoders(model, directory)


def _runner(
    model: Model, encoder: MediaEncoder | None, num_slots: int, context_length: int
) -> ReferenceRunner:
    decoder = Decoder(model)
    max_context = min(context_length, decoder.config.max_position_embeddings)
    cache = KVCache(decoder.config, num_slots, max_context, decoder.device, decoder.dtype)
    return ReferenceRunner(decoder, encoder, cache)


def _eos_token_ids(model: Model, tokenizer: Tokenizer) -> frozenset[int]:
    """The generation config knows best; a turn's end is an end even where it was left out."""
    configured = model.generation_config.eos_token_id
    if configured is None:
        configured = model.config.get_text_config().eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(end for end in (*ends, tokenizer.token_to_id("<end_of_turn>")) if end is not None)


def _report(loaded: LoadedModel, model: Model, directory: Path, seconds: float) -> None:
    log.info(
        "model loaded",
        directory=str(directory),
        device=loaded.device,
        dtype=str(model.dtype).removeprefix("torch."),
        weights_mb=model.get_memory_footprint() // 2**20,
        max_context=loaded.runner.max_context,
        seconds=round(seconds, 1),
    )
