"""Our own Gemma 3n text model, for inference alone: token ids in, logits out, over the slots of a cache.

What it computes is transformers' ``Gemma3nTextModel``. What it leaves out: in a prompt, every layer above the
last that owns keys and values runs for the last token only, because nothing else of theirs is ever read.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Gemma3nTextConfig

from .embeddings import Embeddings, TokenEmbedder
from .kv_cache import CacheStep
from .layer import HALF_POWER, NUM_STREAMS, Layer, Read, Rotation, shapes
from .per_layer_table import PerLayerTable
from .rms_norm import RMSNorm

_SMALLEST_MEAN_SQUARE = 1e-5


class Decoder:
    """The text model; ``read`` gives its tensors by their names, such as ``norm.weight``."""

    def __init__(
        self, config: Gemma3nTextConfig, read: Read, table: PerLayerTable, embedder: TokenEmbedder
    ) -> None:
        """``config`` must be one that `require_supported` lets pass."""
        self.config = config
        self._table = table
        self._embedder = embedder
        self._layers = [
            Layer(
                shape,
                lambda name, index=shape.index: read(f"layers.{index}.{name}"),
                scales_correction=config.altup_correct_scale,
            )
            for shape in shapes(config)
        ]
        self._num_owning = config.num_hidden_layers - config.num_kv_shared_layers
        self._rotations = {
            kind: self._rotation_table(config.rope_parameters[kind]["rope_theta"])
            for kind in set(config.layer_types)
        }
        others = range(NUM_STREAMS - 1)
        self._streams = torch.cat([read(f"altup_projections.{i}.weight") for i in others])
        # [3, hidden_size (in), hidden_size (out)]
        self._unembed = torch.stack([read(f"altup_unembed_projections.{i}.weight").T for i in others])
        self._norm = RMSNorm(read("norm.weight"), config.rms_norm_eps)
        self._per_layer = read("per_layer_model_projection.weight")
        # transformers scales by hidden_size ** -0.5 before the norm, which then feels its eps the more.
        self._per_layer_norm = RMSNorm(
            read("per_layer_projection_norm.weight") * HALF_POWER, config.rms_norm_eps * config.hidden_size
        )

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._embedder.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._embedder.weight.dtype

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embeds ``[batch, num_new]`` ids; pictures and clips may then be put in their places."""
        return self._embedder.embed(token_ids)

    def forward(self, embeddings: Embeddings, step: CacheStep, *, is_last: bool = True) -> Tensor | None:
        """Runs the new tokens, and returns the last position's state ``[batch, hidden_size]``.

        Of a prompt whose end is still to come (not ``is_last``) nothing but keys and values is computed, and
        None returned. The new positions count once the caller commits ``step``.
        """
        hidden, ids = embeddings.hidden.flatten(0, 1), embeddings.flat_ids
        streams = self._expand(hidden)
        num_whole = len(self._layers)
        if step.num_new > 1:
            num_whole = self._num_owning - 1
        streams = self._run(0, num_whole, streams, hidden, ids, step)
        if num_whole < len(self._layers):
            layer = self._layers[num_whole]
            layer.remember(streams, step, self._rotation(step)[layer.shape.layer_type])
            if not is_last:
                return None
            streams, hidden, ids = streams[-1:], hidden[-1:], ids[-1:]
            streams = self._run(num_whole, len(self._layers), streams, hidden, ids, step.last())
        return self._gather(streams)

    def logits(self, last_state: Tensor) -> Tensor:
        """Returns soft-capped float32 logits ``[batch, vocab_size]``.

        Capped in float32 also where the model runs in bfloat16, whose tanh would merge the best candidates.
        """
        logits = functional.linear(last_state, self._embedder.weight).float()
        cap = self.config.final_logit_softcapping
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _run(
        self, start: int, end: int, streams: Tensor, hidden: Tensor, ids: Sequence[int], step: CacheStep
    ) -> Tensor:
        per_layer = self._per_layer_inputs(hidden, ids, start, end)
        rotation = self._rotation(step)
        for layer in self._layers[start:end]:
            inputs = per_layer[:, layer.shape.index - start]
            streams = layer.forward(streams, inputs, step, rotation[layer.shape.layer_type])
        return streams

    def _per_layer_inputs(self, hidden: Tensor, ids: Sequence[int], start: int, end: int) -> Tensor:
        """Returns ``[num_tokens, end - start, width]``: what the tokens and their ids give those layers."""
        width = self.config.hidden_size_per_layer_input
        columns = slice(start * width, end * width)
        projected = functional.linear(hidden, self._per_layer[columns]).view(len(hidden), -1, width)
        rows = self._table.rows(ids)[:, columns].to(self.device, self.dtype).view(len(hidden), -1, width)
        return torch.add(self._per_layer_norm(projected), rows, alpha=math.sqrt(width) * HALF_POWER)

    def _expand(self, hidden: Tensor) -> Tensor:
        """Returns ``[num_tokens, 4, hidden_size]``: the embedding, and three projections as long as it."""
        projected = functional.linear(hidden, self._streams).view(len(hidden), NUM_STREAMS - 1, -1)
        scaled = projected * (_length(hidden)[:, None] / self._clamped_length(projected))
        return torch.cat([hidden[:, None], scaled], dim=1)

    def _gather(self, streams: Tensor) -> Tensor:
        """Returns ``[num_tokens, hidden_size]``: the mean of the streams, made as long as the first."""
        first = streams[:, 0]
        others = torch.bmm(streams[:, 1:].transpose(0, 1), self._unembed)
        others = others * (_length(first) / self._clamped_length(others))
        return self._norm((first + others.sum(dim=0)) / NUM_STREAMS)

    def _clamped_length(self, x: Tensor) -> Tensor:
        return _length(x).clamp(min=math.sqrt(_SMALLEST_MEAN_SQUARE * self.config.hidden_size))

    def _rotation(self, step: CacheStep) -> dict[str, Rotation]:
        positions = step.positions.flatten()
        return {
            kind: (cosines[positions][:, None], sines[positions][:, None])
            for kind, (cosines, sines) in self._rotations.items()
        }

    def _rotation_table(self, base: float) -> Rotation:
        """Returns cosines, and sines signed for a roll by half, ``[max_position_embeddings, head_dim]``."""
        head_dim = self.config.head_dim
        frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.arange(self.config.max_position_embeddings).float()[:, None] * frequencies
        cosines, sines = angles.cos(), angles.sin()
        tables = torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)
        return tuple(table.to(self._embedder.weight) for table in tables)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def require_supported(config: Gemma3nTextConfig) -> None:
    """Raises ValueError for what no published Gemma 3n has, and this would compute wrongly."""
    asked = {
        "altup_num_inputs": (config.altup_num_inputs, NUM_STREAMS),
        "altup_active_idx": (config.altup_active_idx, 0),
        "attention_bias": (config.attention_bias, False),
        "hidden_activation": (config.hidden_activation, "gelu_pytorch_tanh"),
    }
    asked |= {
        f"rope_parameters.{kind}.rope_type": (config.rope_parameters[kind]["rope_type"], "default")
        for kind in set(config.layer_types)
    }
    for name, (value, supported) in asked.items():
        if value != supported:
            raise ValueError(
                f"{name} is {value}, and the native engine computes {supported} only: set ENGINE=reference."
            )
