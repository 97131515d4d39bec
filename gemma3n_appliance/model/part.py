"""Layers that run one after the other, with what each is given of the tokens beside the streams."""

import itertools
import math
from collections.abc import Sequence
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
    """Layers that run one after the other, and what makes their per-layer inputs."""

    def __init__(
        self, name: str, layers: Sequence[Layer], weights: Weights, norm: RMSNorm, width: int
    ) -> None:
        """``layers`` follow each other; ``width`` is what each is given of a token."""
        self.layers = layers
        self._norm = norm
        self._width = width
        if not layers:
            return
        for before, layer in itertools.pairwise(layers):
            layer.follow(before)
        start = layers[0].shape.index * width
        columns = slice(start, start + len(layers) * width)
        self._projection = weights.linear(
            f"per_layer_inputs.{name}",
            # Copied: of a view, the whole would stay in memory.
            lambda: weights("per_layer_model_projection.weight")[columns].clone(),
            fine=True,
        )

    def run(
        self, streams: Tensor, tokens: Tokens, step: CacheStep | StaticStep, rotation: dict[str, Rotation]
    ) -> Tensor:
        """Runs ``[num_tokens, 5, hidden_size]`` through the layers."""
        if not self.layers:
            return streams
        inputs = self._inputs(tokens)
        for number, layer in enumerate(self.layers):
            of_layer = partial(inputs.of, number)
            streams = layer.forward(streams, of_layer, step, rotation[layer.shape.layer_type])
        return self.layers[-1].finish(streams)

    def _inputs(self, tokens: Tokens) -> "_Inputs":
        projected = self._norm(self._projection(tokens.hidden).unflatten(1, (-1, self._width)))
        return _Inputs(projected, tokens.rows, self.layers[0].shape.index)


class _Inputs:
    """What layers are given of each token; of a prompt's, made when the first of some layers asks for it."""

    def __init__(self, projected: Tensor, rows: Rows, first: int) -> None:
        """``projected`` is ``[num_tokens, num_layers, width]``, for layers from ``first`` on."""
        self._projected = projected
        self._rows = rows
        self._first = first
        self._made = projected[:, :0]
        self._start = self._stop = 0
        if rows.are_here:
            self._make_until(projected.shape[1])

    def of(self, number: int) -> Tensor:
        """Returns ``[num_tokens, width]``; layers ask in turn, the first being number 0."""
        if number == self._stop:
            num_layers = self._projected.shape[1]
            self._make_until(num_layers if number else min(_FIRST_LAYERS, num_layers))
        return self._made[:, number - self._start]

    def _make_until(self, stop: int) -> None:
        self._start, self._stop = self._stop, stop
        width = self._projected.shape[2]
        columns = slice((self._first + self._start) * width, (self._first + stop) * width)
        rows = self._rows.of(columns).unflatten(1, (-1, width))
        projected = self._projected[:, self._start : stop]
        self._made = torch.add(projected, rows, alpha=math.sqrt(width) * HALF_POWER)
