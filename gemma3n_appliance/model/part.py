"""Layers that run one after the other, with what each is given of the tokens beside the streams."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from .kv_cache import CacheStep
from .layer import HALF_POWER, Layer
from .linear import Weights
from .rms_norm import RMSNorm
from .rotation import Rotation
from .static_step import StaticStep
from .tokens import Rows, Tokens

# Of a prompt's rows, so many layers' share is read first: what they compute takes a GPU longer than a host
# takes for the rest.
_FIRST_LAYERS = 4


class Part:
    """Layers that run one after the other, and what makes their per-layer inputs.

    ``columns`` are theirs of a row of the table.
    """

    def __init__(
        self, name: str, layers: Sequence[Layer], weights: Weights, norm: RMSNorm, width: int
    ) -> None:
        """``layers`` follow each other; ``width`` is what each is given of a token."""
        self.layers = layers
        self.columns = slice(0, 0)
        self._norm = norm
        self._width = width
        if not layers:
            return
        for before, layer in itertools.pairwise(layers):
            layer.follow(before)
        self.columns = self._columns(0, len(layers))
        self._projection = weights.linear(
            f"per_layer_inputs.{name}",
            # Copied: of a view, the whole would stay in memory.
            lambda: weights("per_layer_model_projection.weight")[self.columns].clone(),
            fine=True,
        )

    def run(
        self, streams: Tensor, tokens: Tokens, step: CacheStep | StaticStep, rotation: dict[str, Rotation]
    ) -> Tensor:
        """Runs ``[num_tokens, 5, hidden_size]`` through the layers."""
        if not self.layers:
            return streams
        inputs = self._inputs(tokens)
        for layer in self.layers:
            streams = layer.forward(streams, partial(next, inputs), step, rotation[layer.shape.layer_type])
        return self.layers[-1].finish(streams)

    def _inputs(self, tokens: Tokens) -> Iterator[Tensor]:
        """Returns what each layer is given in turn; what has to be read, once it is asked for."""
        projected = self._norm(self._projection(tokens.hidden).unflatten(1, (-1, self._width)))
        rows, num_layers = tokens.rows, len(self.layers)
        if rows.are_here:
            return iter(self._given(projected, rows, 0, num_layers))
        bounds = sorted({0, min(_FIRST_LAYERS, num_layers), num_layers})
        given = (self._given(projected, rows, *some) for some in itertools.pairwise(bounds))
        return itertools.chain.from_iterable(given)

    def _given(self, projected: Tensor, rows: Rows, start: int, stop: int) -> tuple[Tensor, ...]:
        """Returns ``[num_tokens, width]`` for each of some layers; ``projected`` is for all."""
        looked_up = rows.of(self._columns(start, stop)).unflatten(1, (-1, self._width))
        scale = math.sqrt(self._width) * HALF_POWER
        return torch.add(projected[:, start:stop], looked_up, alpha=scale).unbind(1)

    def _columns(self, start: int, stop: int) -> slice:
        """Returns where some of the layers are in a row of the table."""
        first = self.layers[0].shape.index
        return slice((first + start) * self._width, (first + stop) * self._width)
