"""Loads a checkpoint for our own text model. The towers stay transformers' own."""

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import Gemma3nConfig, Gemma3nTextConfig, Gemma3nTextModel

from . import towers
from .checkpoint_files import CheckpointFiles, Place
from .decoder import Decoder, require_supported
from .embeddings import TokenEmbedder
from .parts import Parts
from .per_layer_table import PerLayerTable

_TABLE = "embed_tokens_per_layer.weight"
_KEYS_AND_VALUES = re.compile(r"layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\.")


def load(
    directory: Path, config: Gemma3nConfig | Gemma3nTextConfig, dtype: torch.dtype, device: torch.device
) -> Parts:
    """Loads the text model, and the towers where ``config`` has any.

    Raises:
        ModelLoadError: the model is none that we compute.
        ValueError: weights are missing or misshapen.
    """
    text_config = config.get_text_config()
    require_supported(text_config)
    files = CheckpointFiles(directory)
    weights = TextWeights(files, dtype, device)
    towers.require_complete(weights.lacking(text_config))
    table = PerLayerTable(weights.place(_TABLE))
    encoder, ranges, num_tower_bytes = None, [], 0
    if isinstance(config, Gemma3nConfig):
        from .encoders import Encoders  # imports torchvision, which is known to be there by now

        model = towers.load(files, config, dtype).to(device)
        encoder, ranges = Encoders(model, directory), towers.special_ranges(model)
        num_tower_bytes = model.get_memory_footprint()
    decoder = Decoder(text_config, weights, table, TokenEmbedder(weights("embed_tokens.weight"), ranges))
    return Parts(decoder, encoder, weights.num_bytes + num_tower_bytes, table.num_bytes)


class TextWeights:
    """Reads a text model's tensors by their names in it, into the dtype and to the device it computes in."""

    def __init__(self, files: CheckpointFiles, dtype: torch.dtype, device: torch.device) -> None:
        """Raises ValueError where ``files`` have no Gemma 3n text model."""
        self._files = files
        self._dtype = dtype
        self._device = device
        tables = [name for name in files if name.endswith(_TABLE)]
        towers.require_complete(set() if tables else {_TABLE})
        self._prefix = tables[0].removesuffix(_TABLE)
        self.num_bytes = 0

    def __call__(self, name: str) -> Tensor:
        """Returns a tensor."""
        tensor = self._files.read(self._prefix + name).to(self._device, self._dtype)
        self.num_bytes += tensor.nbytes
        return tensor

    def place(self, name: str) -> Place:
        """Returns where a tensor is, which must be there."""
        place = self._files.place(self._prefix + name)
        if place is None:
            raise KeyError(name)
        return place

    def lacking(self, config: Gemma3nTextConfig) -> set[str]:
        """Returns the names of what a model of this shape has, and the files have not."""
        with torch.device("meta"):
            wanted = Gemma3nTextModel(config).state_dict()
        num_owning = config.num_hidden_layers - config.num_kv_shared_layers
        return {
            name
            for name, tensor in wanted.items()
            if not _is_never_read(name, num_owning) and self._shape(name) != tuple(tensor.shape)
        }

    def _shape(self, name: str) -> tuple[int, ...] | None:
        place = self._files.place(self._prefix + name)
        return place and place.shape


def _is_never_read(name: str, num_owning: int) -> bool:
    """Whether these are the keys and values of a layer that reads another's; some checkpoints have them."""
    match = _KEYS_AND_VALUES.match(name)
    return match is not None and int(match[1]) >= num_owning
