"""The towers of a multimodal checkpoint for vision and audio, as transformers has them."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Gemma3nConfig, Gemma3nModel
from transformers.initialization import no_init_weights

from .checkpoint_files import CheckpointFiles
from .embeddings import SpecialRange
from .kv_cache import FULL

# A name that no text model has. Before it, as before all, may be the name of what contains the towers.
_KNOWN_BY = "embed_vision.soft_embedding_norm.weight"


def load(files: CheckpointFiles, config: Gemma3nConfig, dtype: torch.dtype) -> Gemma3nModel:
    """Loads all but the text model, which is made as small as transformers lets it be, and thrown away.

    Raises:
        ValueError: weights of the towers are missing or misshapen.
    """
    model = _empty(config, dtype)
    wanted = model.state_dict()
    prefix = next((name.removesuffix(_KNOWN_BY) for name in files if name.endswith(_KNOWN_BY)), "")
    require_complete(files.lacking(prefix, ((name, tuple(each.shape)) for name, each in wanted.items())))
    weights = {name: files.read(prefix + name).to(dtype) for name in wanted}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _empty(config: Gemma3nConfig, dtype: torch.dtype) -> Gemma3nModel:
    """Returns towers whose weights are yet to come: memory that nobody has touched.

    ``from_pretrained`` would make them on torch's device without memory, which imports torch's compiler.
    """
    before = torch.get_default_dtype()
    try:
        made = []
        for each in (torch.float32, dtype):
            torch.set_default_dtype(each)
            with no_init_weights():
                made.append(Gemma3nModel(_to_be_made_of(config)))  # anew: timm changes what it is given
    finally:
        torch.set_default_dtype(before)
    exact, model = made
    # What is computed of the configuration is rounded once, when it is kept.
    for kept, computed in zip(model.buffers(), exact.buffers(), strict=True):
        kept.copy_(computed)
    del model.language_model
    model.config = config
    return model


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


def _to_be_made_of(config: Gemma3nConfig) -> Gemma3nConfig:
    """Has the text model tiny, and no dtype of its own in any part: those of Google's name bfloat16."""
    tiny = copy.deepcopy(config)
    text = tiny.text_config
    for part in (tiny, text, tiny.vision_config, tiny.audio_config):
        part.dtype = None
    text.num_hidden_layers, text.num_kv_shared_layers = 1, 0
    text.layer_types = [FULL]
    text.intermediate_size, text.activation_sparsity_pattern = [1], [0.0]
    text.vocab_size = text.vocab_size_per_layer_input = 1
    text.pad_token_id = 0
    return tiny
