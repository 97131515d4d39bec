"""Loads a checkpoint for our own text model. The towers stay transformers' own."""

from functools import partial
from pathlib import Path

import torch
from transformers import Gemma3nConfig, Gemma3nTextConfig

from . import cuda_kernels, quantize, towers
from .checkpoint_files import CheckpointFiles
from .cuda_layer import CudaLayer
from .decoder import Decoder, require_supported
from .embeddings import TokenEmbedder
from .layer import Layer
from .parts import Parts
from .per_layer_table import PerLayerTable
from .quantized_files import QuantizedFiles
from .streams import CudaStreams, Streams
from .text_weights import TABLE, Quantization, TextWeights


def load(
    directory: Path,
    config: Gemma3nConfig | Gemma3nTextConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
    cache_dir: Path | None = None,
    *,
    own_kernels: bool = True,
) -> Parts:
    """Loads the text model, and the towers where ``config`` has any.

    What is quantised, and compiled, is kept in ``cache_dir``, if there is one, for the next start. Without
    ``own_kernels``, a GPU computes by torch's operations alone.

    Raises:
        ModelLoadError: the model is none that we compute, or torch has no kernels for quantised weights.
        ValueError: weights are missing or misshapen.
    """
    text_config = config.get_text_config()
    require_supported(text_config)
    files = CheckpointFiles(directory)
    # In float32, pictures would else be convolved in TF32.
    torch.backends.cudnn.allow_tf32 = False
    kernels = cuda_kernels.load(text_config, dtype, device, cache_dir) if own_kernels else None
    kept = None
    if quantization != "none":
        if kernels is None:
            quantize.require_kernels(quantization, device)
        kept = QuantizedFiles(cache_dir, directory, quantization) if cache_dir else None
    weights = TextWeights(files, dtype, device, quantization, kept, kernels)
    towers.require_complete(weights.lacking(text_config))
    table = PerLayerTable(weights.place(TABLE), is_pinned=device.type == "cuda")
    encoder, ranges, num_tower_bytes = None, [], 0
    if isinstance(config, Gemma3nConfig):
        from .encoders import Encoders  # imports torchvision, which is known to be there by now

        model = towers.load(files, config, dtype).to(device)
        encoder, ranges = Encoders(model, directory), towers.special_ranges(model)
        num_tower_bytes = model.get_memory_footprint()
    embedding = weights.linear("embed_tokens", lambda: weights("embed_tokens.weight"), fine=True)
    embedder = TokenEmbedder(embedding, text_config.hidden_size, dtype, device, ranges)
    made_of = (partial(CudaLayer, kernels), partial(CudaStreams, kernels)) if kernels else (Layer, Streams)
    decoder = Decoder(text_config, weights, table, embedder, *made_of)
    if kept:
        kept.finish()
    return Parts(decoder, encoder, weights.num_bytes + num_tower_bytes, table.num_bytes)
