"""A layer and its weights over our own CUDA kernels: what `layer.Layer` computes, in half of the launches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .cuda_kernels import CudaKernels
from .cuda_weights import ALIGNED_BYTES, Held, Packing
from .feed_forward import SPARSE
from .kv_cache import SLIDING, CacheStep
from .layer import Layer, LayerInput, LayerShape
from .linear import GROUP, Dense, Int8, Linear, Weights
from .rotation import Rotation

# Of more tokens than that, numbers are multiplied by tensor cores quicker, and packed ones once unpacked.
_FEW_NUMBERS = 2
_FEW_PACKED = 64


class CudaLayer(Layer):
    """A layer on a GPU.

    One token alone leaves what its per-layer input added in the fifth row, for the next layer to spread.
    """

    def __init__(
        self, kernels: CudaKernels, shape: LayerShape, weights: Weights, scales_correction: bool
    ) -> None:
        super().__init__(shape, weights, scales_correction)
        self._kernels = kernels
        self._spread_norm: Tensor | None = None
        self._held = _Holdings.of(self)

    def follow(self, before: Layer) -> None:
        """See `Layer`."""
        if isinstance(before, CudaLayer) and before._held:
            self._spread_norm = before._per_layer_norm.weight

    def finish(self, rows: Tensor) -> Tensor:
        """See `Layer`."""
        if len(rows) == 1 and self._held:
            self._kernels.spread(rows, rows[:, -1], self._per_layer_norm.weight)
        return rows

    def forward(self, rows: Tensor, per_layer: LayerInput, step: CacheStep, rotation: Rotation) -> Tensor:
        """See `Layer`; overwrites ``rows``."""
        if len(rows) == 1 and self._held:
            return self._forward_one(self._held, rows, per_layer, step, rotation)
        if len(rows) == 1 and self._spread_norm is not None:
            self._kernels.spread(rows, rows[:, -1], self._spread_norm)
        kernels, router = self._kernels, (self._router, self._router_norm.weight)
        normed = kernels.predict(rows, *router, self._prediction, self._input_norm.weight)
        projected = self._inputs(normed)
        attended = self._output(self._attend(projected, step, rotation))
        laurel = self._laurel(projected[:, self._num_inputs :])
        gated, following = kernels.join(attended, laurel, rows, normed, self._join_norms)
        fed = self._feed_forward
        down = fed.down(kernels.activate(fed.gate_and_up(following), fed.cutoff))
        kernels.correct(rows, gated, down, self._ffn_output_norm.weight, *router, self._correction)
        chosen = _ours(self._per_layer_gate).chosen(rows[:, 0], per_layer())
        kernels.spread(rows, self._per_layer(chosen), self._per_layer_norm.weight)
        return rows

    def remember(self, rows: Tensor, step: CacheStep, rotation: Rotation) -> None:
        """See `Layer`; overwrites ``rows`` but the last token's, which alone goes on."""
        router, last = (self._router, self._router_norm.weight), rows[-1:].clone()
        normed = self._kernels.predict(rows, *router, self._prediction, self._input_norm.weight)
        rows[-1:] = last
        projected, norm = self._keys_and_values(normed), self._key_and_value_norm.weight
        self._rotate_to_cache(projected, norm, step, rotation, 0, 2 * self.shape.num_kv_heads)

    def _forward_one(
        self, held: "_Holdings", rows: Tensor, per_layer: LayerInput, step: CacheStep, rotation: Rotation
    ) -> Tensor:
        kernels, router = self._kernels.of_one, (self._router, self._router_norm.weight)
        mixed, normed, projected = kernels.inputs(
            rows, self._spread_norm, (*router, self._prediction), self._input_norm.weight, held.inputs
        )
        seen = self._attend(projected, step, rotation)
        found = kernels.outputs(seen, held.output, projected[:, self._num_inputs :], held.laurel)
        gated, down = self._feed_one(held, (*found, mixed, normed))
        chosen = kernels.chosen(
            mixed,
            gated,
            down,
            self._ffn_output_norm.weight,
            (*router, self._correction),
            held.per_layer_gate,
            per_layer(),
            rows,
        )
        self._kernels.multiply(chosen, held.per_layer, out=rows[:, -1])
        return rows

    def _feed_one(self, held: "_Holdings", found: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Returns what was found, joined, and what the feed-forward network makes of it."""
        kernels, norms, cutoff = self._kernels.of_one, self._join_norms, self._feed_forward.cutoff
        if cutoff is None:
            gated, activated = kernels.gated(found, norms, held.gate_and_up)
            return gated, self._kernels.multiply(activated, held.down)
        if held.skips_resting:
            size = len(held.gate_and_up) // 2
            gated, following, gates = kernels.gates(found, norms, held.gate_and_up, size)
            activated = kernels.live(following, gates, held.gate_and_up.weight[size:], cutoff)
            return gated, kernels.down_live(activated, held.down.weight.t())
        gated, _, both = kernels.gates(found, norms, held.gate_and_up, len(held.gate_and_up))
        return gated, self._kernels.multiply(self._kernels.activate(both, cutoff), held.down)

    @property
    def _num_inputs(self) -> int:
        """How many numbers of what is projected are for attention."""
        return self.shape.num_projected_heads * self.shape.head_dim

    @property
    def _join_norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of attention, of LAuReL and of the feed-forward network's input."""
        return self._attention_norm.weight, self._laurel_norm.weight, self._ffn_norm.weight

    def _attend(self, projected: Tensor, step: CacheStep, rotation: Rotation) -> Tensor:
        shape, cache = self.shape, step.cache.layers[self.shape.owner]
        norm = self._head_norm.weight
        if step.num_new == 1:
            window = step.cache.sliding_window if shape.layer_type == SLIDING else None
            return self._kernels.attend(
                projected, norm, rotation, step, cache, shape.num_heads, window, owns=shape.owns_keys
            )
        queries = self._rotate_to_cache(
            projected, norm, step, rotation, shape.num_heads, shape.num_projected_heads
        )
        return self._look(queries, step)

    def _rotate_to_cache(
        self,
        projected: Tensor,
        norm: Tensor,
        step: CacheStep,
        rotation: Rotation,
        num_heads: int,
        num_rotated: int,
    ) -> Tensor:
        cache = step.cache.layers[self.shape.owner]
        return self._kernels.rotate(
            projected, norm, rotation, step.slot_ids, step.positions, cache, num_heads, num_rotated
        )


@dataclass(frozen=True)
class _Holdings:
    """A layer's weights, as the kernels for one token read them."""

    inputs: Held
    output: Held
    laurel: Held
    gate_and_up: Held
    down: Held
    per_layer_gate: Held
    per_layer: Held
    skips_resting: bool

    @classmethod
    def of(cls, layer: CudaLayer) -> "_Holdings | None":
        """Returns None where a weight's rows cannot be read 16 bytes at a time, or are packed otherwise."""
        fed = layer._feed_forward
        skips_resting = layer.shape.sparsity >= SPARSE and isinstance(fed.gate_and_up, CudaDense)
        if isinstance(fed.down, CudaDense) and skips_resting:
            fed.down.lay_by_inputs()
        made = cls(
            inputs=_ours(layer._inputs).held,
            output=_ours(layer._output).held,
            laurel=_ours(layer._laurel).held,
            gate_and_up=_ours(fed.gate_and_up).held,
            down=_ours(fed.down).held,
            per_layer_gate=_ours(layer._per_layer_gate).held,
            per_layer=_ours(layer._per_layer).held,
            skips_resting=skips_resting and isinstance(fed.down, CudaDense),
        )
        return made if made._suit() else None

    def _suit(self) -> bool:
        by_rows = [
            self.inputs,
            self.output,
            self.laurel,
            self.gate_and_up,
            self.per_layer_gate,
            self.per_layer,
        ]
        if not self.skips_resting:
            by_rows.append(self.down)
        laurel = "numbers" if self.output.packing == "numbers" else "int8"
        is_laid = not self.skips_resting or self.down.weight.t().is_contiguous()
        return is_laid and self.laurel.packing == laurel and all(map(_is_aligned, by_rows))


class _Ours(ABC):
    """A weight that our kernels multiply by where tokens are few, and torch's where they are many."""

    few: ClassVar[int]

    def __init__(self, kernels: CudaKernels) -> None:
        self._kernels = kernels

    @property
    @abstractmethod
    def held(self) -> Held:
        """As our kernels read it."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies."""
        return self._kernels.multiply(x, self.held) if self._is_ours(x) else self._by_torch(x)

    def chosen(self, x: Tensor, factors: Tensor) -> Tensor:
        """Multiplies, and what comes of that, through gelu, by ``factors``."""
        if self._is_ours(x):
            return self._kernels.multiply(x, self.held, factors)
        return functional.gelu(self._by_torch(x), approximate="tanh") * factors

    def _is_ours(self, x: Tensor) -> bool:
        """Whether there are few tokens, and rows that can be read 16 bytes at a time."""
        is_aligned = x.stride(0) * x.itemsize % ALIGNED_BYTES == x.data_ptr() % ALIGNED_BYTES == 0
        return len(x) <= self.few and is_aligned and _is_aligned(self.held)

    @abstractmethod
    def _by_torch(self, x: Tensor) -> Tensor: ...


class CudaDense(_Ours, Dense):
    """Numbers as they are."""

    few = _FEW_NUMBERS

    def __init__(self, kernels: CudaKernels, weight: Tensor) -> None:
        _Ours.__init__(self, kernels)
        Dense.__init__(self, weight)

    @property
    def held(self) -> Held:
        """See `_Ours`."""
        return Held("numbers", self.weight)

    def lay_by_inputs(self) -> None:
        """Lays what one input is multiplied by in one piece; our kernels then read no rows of it."""
        self.weight = self.weight.t().contiguous().t()

    def _by_torch(self, x: Tensor) -> Tensor:
        return Dense.__call__(self, x)


class CudaPacked(_Ours):
    """Bytes or nibbles, as `quantize` makes them."""

    few = _FEW_PACKED

    def __init__(self, kernels: CudaKernels, tensors: dict[str, Tensor]) -> None:
        """``tensors`` are what `quantize.quantize` returns."""
        super().__init__(kernels)
        packing: Packing = "int8" if "int8" in tensors else "int4"
        # Of nibbles, a row's scales side by side, as a row is read.
        scales = tensors["scales"]
        self._scales = scales if scales.ndim == 1 else scales.transpose(0, 1).contiguous()
        self._weight = tensors[packing]
        self._held = Held(packing, self._weight, self._scales)

    @property
    def held(self) -> Held:
        """See `_Ours`."""
        return self._held

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self._weight.nbytes + self._scales.nbytes

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns rows of bytes, which a table of embeddings always has."""
        return Int8(self._weight, self._scales).embed(ids, dtype)

    def _by_torch(self, x: Tensor) -> Tensor:
        if self.held.packing == "int8":
            return Int8(self._weight, self._scales).unpacked(x)
        return functional.linear(x, self._unpacked(x.dtype))

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        """Returns ``[num_outputs, num_inputs]``."""
        pairs = torch.stack([self._weight >> 4, self._weight & 15], dim=-1)
        groups = pairs.view(len(pairs), -1, GROUP).to(dtype).sub_(8)
        scales, zeros = self._scales.to(dtype)[..., None].unbind(-2)
        return groups.mul_(scales).add_(zeros).flatten(1)


def _ours(linear: Linear) -> _Ours:
    assert isinstance(linear, _Ours)
    return linear


def _is_aligned(held: Held) -> bool:
    """Whether its rows can be read 16 bytes at a time, one after the other."""
    return held.weight.is_contiguous() and held.weight.shape[1] * held.weight.itemsize % ALIGNED_BYTES == 0
