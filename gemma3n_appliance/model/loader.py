"""A checkpoint's directory → a model ready to run."""

import dataclasses
import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, Gemma3nConfig, Gemma3nTextConfig, GenerationConfig, PretrainedConfig

from ..engine.grammar import Grammars
from ..engine.runner import LoadedModel
from ..errors import ApplianceError, ModelLoadError
from ..settings import Settings
from . import cache_size, native, pieces, reference
from .cuda_graph import GraphRecorder
from .kv_cache import KVCache
from .memory import named_when_exhausted
from .parts import Parts
from .runner import SlotRunner
from .static_decoder import StaticDecoder
from .torchvision_ops import make_torchvision_importable

log = structlog.get_logger(__name__)

_SMALLER_MODEL = "Set QUANTIZATION=int4, serve a smaller model, or lower NUM_SLOTS."


def load(directory: Path, settings: Settings) -> LoadedModel:
    """Loads a Gemma 3n checkpoint in the hub's format; never asks the network for anything.

    Where timm or torchvision are missing, a multimodal checkpoint is loaded for text alone.

    Raises:
        ModelLoadError: files are missing, broken or not Gemma 3n's, or there is no such device.
        InsufficientMemoryError: the model does not fit into memory.
    """
    started = time.monotonic()
    device = _device(settings)
    with _named_when_broken(directory), named_when_exhausted("the model", _SMALLER_MODEL):
        transformers.logging.set_verbosity_error()  # or it lists every weight that is not needed
        transformers.logging.disable_progress_bar()
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = _config(directory, settings)
        parts = _parts(directory, config, device, settings)
        known = pieces.read(tokenizer, config.get_text_config().vocab_size)
        control_tokens = pieces.control_tokens(tokenizer)
        eos_token_ids = _eos_token_ids(directory, config, tokenizer)
        # Before the runner, whose cache takes what memory is left.
        grammars = Grammars(
            known,
            control_tokens,
            eos_token_ids,
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        )
        loaded = LoadedModel(
            runner=_runner(parts, settings),
            pieces=known,
            control_tokens=control_tokens,
            eos_token_ids=eos_token_ids,
            grammars=grammars,
            device=str(device),
            num_bytes_left_on_disk=parts.num_bytes_left_on_disk,
            has_vision=parts.encoder is not None,
            has_audio=parts.encoder is not None,
        )
    _tell(directory, settings, parts, loaded, time.monotonic() - started)
    return loaded


def _tell(directory: Path, settings: Settings, parts: Parts, loaded: LoadedModel, load_s: float) -> None:
    log.info(
        "model loaded",
        directory=str(directory),
        engine=settings.engine,
        device=loaded.device,
        dtype=str(parts.decoder.dtype).removeprefix("torch."),
        quantization=settings.quantization,
        weights_mb=parts.num_weight_bytes // 2**20,
        left_on_disk_mb=parts.num_bytes_left_on_disk // 2**20,
        num_slots=loaded.runner.num_slots,
        max_context=loaded.runner.max_context,
        seconds=round(load_s, 1),
    )


def _parts(directory: Path, config: PretrainedConfig, device: torch.device, settings: Settings) -> Parts:
    dtype = _dtype(settings, device)
    if settings.engine == "reference":
        return reference.load(directory, config, dtype, device)
    parts = native.load(
        directory,
        config,
        dtype,
        device,
        settings.quantization,
        settings.cache_dir,
        own_kernels=settings.cuda_kernels,
    )
    if device.type == "cuda" and settings.cuda_graphs:
        return dataclasses.replace(parts, decoder=StaticDecoder(parts.decoder, GraphRecorder))
    return parts


def _device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("DEVICE=cuda, but torch finds no GPU. Install a CUDA build of torch.")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """Gemma 3n was trained in bfloat16, and float16 overflows (huggingface/transformers#39972).

    A CPU without AVX-512 prefills 5.5 times slower in bfloat16 than in float32, and its results there
    depend on what else is in the batch.
    """
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


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


def _config(directory: Path, settings: Settings) -> PretrainedConfig:
    """Returns the checkpoint's shape; without its towers where they cannot be had."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if isinstance(config, Gemma3nTextConfig):
        log.info("the checkpoint has no vision and no audio: serving text only")
        return config
    if config.model_type in reference.OTHER_MODELS:
        if settings.engine != "reference":
            raise ModelLoadError(
                f"{directory} has a {config.model_type} model, and the native engine computes Gemma 3n. "
                "Set ENGINE=reference, or MODEL_NAME to a directory with a Gemma 3n model."
            )
        log.info("another Gemma than 3n: serving text only", model_type=config.model_type)
        return config
    if not isinstance(config, Gemma3nConfig):
        raise ValueError(f"It is a {config.model_type} model.")
    return config if _towers_importable() else config.text_config


def _towers_importable() -> bool:
    try:
        make_torchvision_importable()
        for library in ("timm", "torchvision"):
            importlib.import_module(library)
    except (ImportError, RuntimeError) as error:
        log.warning("serving text only: install timm, and torchvision to match torch", reason=str(error))
        return False
    return True


def _runner(parts: Parts, settings: Settings) -> SlotRunner:
    decoder = parts.decoder
    size = cache_size.fitting(decoder, settings.num_slots, settings.context_length)
    cache = KVCache(decoder.config, size.num_slots, size.max_context, decoder.device, decoder.dtype)
    return SlotRunner(parts, cache)


def _eos_token_ids(directory: Path, config: PretrainedConfig, tokenizer: Tokenizer) -> frozenset[int]:
    """The generation config knows best; a turn's end is an end even where it was left out."""
    configured = None
    if (directory / "generation_config.json").exists():
        configured = GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id
    if configured is None:
        configured = config.get_text_config().eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(end for end in (*ends, tokenizer.token_to_id("<end_of_turn>")) if end is not None)
