"""The towers of a multimodal checkpoint for vision and audio, as transformers has them."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration, Gemma3nModel

from .checkpoint_files import CheckpointFiles
from .embeddings import SpecialRange
from .kv_cache import FULL

_NOT_OURS = (".language_model.", "lm_head.")


def load(files: CheckpointFiles, config: Gemma3nConfig, dtype: torch.dtype) -> Gemma3nModel:
    """Loads all but the text model, which is made as small as transformers lets it be, and thrown away.

    Raises:
        ValueError: weights of the towers are missing or misshapen.
    """
    # Its tables would be read, converted and dropped.
    weights = {name: files.read(name) for name in files if not _is_text(name)}
    model, loading = Gemma3nForConditionalGeneration.from_pretrained(
        None,
        config=_with_a_tiny_text_model(config),
        state_dict=weights,
        dtype=dtype,
        output_loading_info=True,
    )
    lacking = {str(key) for key in loading["missing_keys"] | loading["mismatched_keys"]}
    require_complete({key for key in lacking if not _is_text(key)})
    towers = model.model
    del towers.language_model
    towers.config = config
    return towers


def require_complete(lacking: set[str]) -> None:
    """Raises ValueError where weights are lacking: transformers would make some up and go on."""
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing or misshapen, such as {min(lacking)}.")


def special_ranges(model: Gemma3nModel) -> list[SpecialRange]:
    """The ids that the towers have embeddings of their own for."""
    vision, audio = model.embed_vision, model.embed_audio

    def embed_with(tower: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda ids: tower(input_ids=ids)

    vocab_size = model.config.get_text_config().vocab_size
    return [
        SpecialRange(vision.vocab_offset, audio.vocab_offset, embed_with(vision)),
        SpecialRange(audio.vocab_offset, vocab_size, embed_with(audio)),
    ]


def _is_text(key: str) -> bool:
    return any(name in key for name in _NOT_OURS)


def _with_a_tiny_text_model(config: Gemma3nConfig) -> Gemma3nConfig:
    tiny = copy.deepcopy(config)
    text = tiny.text_config
    text.num_hidden_layers, text.num_kv_shared_layers = 1, 0
    text.layer_types = [FULL]
    text.intermediate_size, text.activation_sparsity_pattern = [1], [0.0]
    text.vocab_size = text.vocab_size_per_layer_input = 1
    text.pad_token_id = 0
    return tiny
