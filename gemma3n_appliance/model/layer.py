"""One layer of Gemma 3n's text model, with weights fused for inference.

What it computes is transformers' ``Gemma3nTextDecoderLayer``. The four AltUp streams of a token lie beside
each other, and behind them, as a fifth row, what the layer makes of the first, ``[num_tokens, 5,
hidden_size]``: so mixing them is one small batched matmul before, and one after. What a decode step costs a
Jetson beyond reading its weights is launching kernels: a test counts them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Gemma3nTextConfig

from .feed_forward import FeedForward
from .kv_cache import SLIDING, Blocks, CacheStep, Span
from .linear import Weights
from .rms_norm import RMSNorm
from .rotation import Rotation, Turn

NUM_STREAMS = 4
NUM_ROWS = NUM_STREAMS + 1
HALF_POWER = math.sqrt(0.5)

# Returns what a layer is given of each token, ``[num_tokens, width]``: it may have to be read, and is asked
# for when a GPU has enough to do until then.
LayerInput = Callable[[], Tensor]


@dataclass(frozen=True)
class LayerShape:
    """What a layer is, by the configuration."""

    index: int
    owner: int  # whose keys and values it reads: its own, or those of the last owning layer of its type
    is_last_owner: bool  # of a prompt's tokens but the last, nothing is ever read above its keys and values
    layer_type: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    sparsity: float  # the share of neurons that rest

    @property
    def owns_keys(self) -> bool:
        """Whether it computes keys and values."""
        return self.owner == self.index

    @property
    def num_projected_heads(self) -> int:
        """Heads of queries, keys and values."""
        return self.num_heads + (2 * self.num_kv_heads if self.owns_keys else 0)


def shapes(config: Gemma3nTextConfig) -> list[LayerShape]:
    """Returns every layer's shape. Raises ValueError where a layer has nobody to read keys from."""
    num_owning = config.num_hidden_layers - config.num_kv_shared_layers
    types = config.layer_types
    return [
        LayerShape(
            index=index,
            owner=index if index < num_owning else _last(types[:num_owning], types[index]),
            is_last_owner=index == num_owning - 1,
            layer_type=types[index],
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
            sparsity=config.activation_sparsity_pattern[index],
        )
        for index in range(config.num_hidden_layers)
    ]


def _last(types: list[str], wanted: str) -> int:
    if wanted not in types:
        raise ValueError(f"No layer computes keys for those of {wanted}.")
    return len(types) - 1 - types[::-1].index(wanted)


class Layer:
    """One layer; ``weights`` are its own, by their names in the checkpoint, such as ``mlp.up_proj.weight``.

    Constant factors are folded into weights: in bfloat16 that rounds some of them once more.
    """

    def __init__(self, shape: LayerShape, weights: Weights, scales_correction: bool) -> None:
        self.shape = shape

        def weight(name: str) -> Tensor:
            return weights(f"{name}.weight")

        def fused(*names: str) -> Callable[[], Tensor]:
            return lambda: torch.cat([weight(name) for name in names])

        def norm(name: str, factor: float = 1.0) -> RMSNorm:
            return RMSNorm(weight(name) * factor, shape.eps)

        self._router_norm = norm("altup.router_norm", 1 / shape.hidden_size)
        self._router = weight("altup.modality_router")
        self._prediction = _mixing(weight("altup.prediction_coefs").unflatten(0, (NUM_STREAMS, -1)))
        self._correction, self._correction_bias = _correction(weight("altup.correction_coefs"))

        self._input_norm = norm("input_layernorm")
        # Queries, keys and values where there are such, and the narrow half of LAuReL.
        inputs = ["q_proj", "k_proj", "v_proj"] if shape.owns_keys else ["q_proj"]
        inputs = [*(f"self_attn.{name}" for name in inputs), "laurel.linear_left"]
        self._inputs = weights.linear("inputs", fused(*inputs))
        self._head_norm = RMSNorm(self._head_norms(weight), shape.eps)
        if shape.owns_keys:
            self._key_and_value_norm = RMSNorm(self._head_norms(weight)[shape.num_heads :], shape.eps)
        if shape.is_last_owner:
            keys_and_values = fused("self_attn.k_proj", "self_attn.v_proj")
            self._keys_and_values = weights.linear("keys_and_values", keys_and_values)
        self._output = weights.linear("output", lambda: weight("self_attn.o_proj"))
        self._attention_norm = norm("post_attention_layernorm", HALF_POWER)
        self._laurel = weights.linear("laurel", lambda: weight("laurel.linear_right"), fine=True)
        self._laurel_norm = norm("laurel.post_laurel_norm", HALF_POWER)

        self._ffn_norm = norm("pre_feedforward_layernorm")
        self._feed_forward = FeedForward(weights.within("mlp."), shape.sparsity, self._router.dtype)
        self._ffn_output_norm = norm("post_feedforward_layernorm")

        def gate() -> Tensor:
            scale = weights("altup.correct_output_scale") if scales_correction else 1.0
            return weight("per_layer_input_gate") * scale

        self._per_layer_gate = weights.linear("per_layer_gate", gate, fine=True)
        self._per_layer = weights.linear("per_layer", lambda: weight("per_layer_projection"), fine=True)
        self._per_layer_norm = norm("post_per_layer_input_norm")

    def _head_norms(self, weight: Callable[[str], Tensor]) -> Tensor:
        """Returns ``[heads, head_dim]`` for queries, keys and values, which are only scaled to one.

        Where there are queries alone, one for all: ``[head_dim]``.
        """
        queries = weight("self_attn.q_norm")
        if not self.shape.owns_keys:
            return queries
        keys = weight("self_attn.k_norm").expand(self.shape.num_kv_heads, -1)
        return torch.cat([queries.expand(self.shape.num_heads, -1), keys, torch.ones_like(keys)])

    def follow(self, before: "Layer") -> None:
        """Says which layer runs right before this one, with the same tokens."""

    def finish(self, rows: Tensor) -> Tensor:
        """Returns the streams, when no layer follows, with all that this one has left to the next."""
        return rows

    def forward(self, rows: Tensor, per_layer: LayerInput, step: CacheStep, rotation: Rotation) -> Tensor:
        """Runs ``[num_tokens, 5, hidden_size]`` through the layer, and may overwrite them."""
        rows = self._predict(rows)
        active = rows[:, 0]
        normed = self._input_norm(active)
        projected = self._inputs(normed)
        num_inputs = self.shape.num_projected_heads * self.shape.head_dim
        attended = self._attend(projected[:, :num_inputs], step, rotation)
        attended = self._attention_norm(self._output(attended))
        laurel = self._laurel_norm(self._laurel(projected[:, num_inputs:]))
        # Of one token, two sums are one kernel.
        seen, passed = torch._foreach_add([attended, active], [laurel, normed])
        gated = torch.add(seen, passed, alpha=HALF_POWER)
        fed = self._feed_forward(self._ffn_norm(gated))
        last = torch.add(gated, self._ffn_output_norm(fed), out=rows[:, -1])
        rows = self._correct(rows, last)
        gate = self._per_layer_gate(rows[:, 0])
        chosen = functional.gelu(gate, approximate="tanh") * per_layer()
        added = self._per_layer_norm(self._per_layer(chosen))
        rows[:, 1:NUM_STREAMS].add_(added[:, None])
        return rows

    def remember(self, rows: Tensor, step: CacheStep, rotation: Rotation) -> None:
        """Computes nothing but keys and values, and writes them.

        Where no later layer owns any, that is all that tokens before the last are there for.
        """
        shape = self.shape
        normed = self._input_norm(self._predict(rows)[:, 0])
        projected = self._keys_and_values(normed)
        turn = rotation.of_heads(shape.num_heads, shape.num_projected_heads)
        turned = self._rotate(projected, self._key_and_value_norm, turn)
        step.write(shape.owner, turned.unflatten(1, (2, -1)))

    def _routed(self, x: Tensor) -> Tensor:
        return torch.tanh(functional.linear(self._router_norm(x), self._router))

    def _predict(self, rows: Tensor) -> Tensor:
        coefficients = functional.linear(self._routed(rows[:, 0]), self._prediction)
        return torch.baddbmm(rows, coefficients.view(-1, NUM_ROWS, NUM_ROWS), rows)

    def _correct(self, rows: Tensor, last: Tensor) -> Tensor:
        """Adds to every stream its share of the difference between the last row and the first."""
        coefficients = functional.linear(self._routed(last), self._correction, self._correction_bias)
        return torch.baddbmm(rows, coefficients.view(-1, NUM_ROWS, NUM_ROWS), rows)

    def _rotate(self, projected: Tensor, norm: RMSNorm, turn: Turn) -> Tensor:
        """Norms ``[num_tokens, heads, head_dim]``, and turns heads by their positions, values by nothing."""
        heads = projected.view(projected.shape[0], -1, self.shape.head_dim)
        both = norm.beside_its_negative(heads)
        return turn.of(norm(heads)) if both is None else turn.of_both(both)

    def _attend(self, projected: Tensor, step: CacheStep, rotation: Rotation) -> Tensor:
        """Returns ``[num_tokens, num_heads * head_dim]``."""
        shape = self.shape
        turn = rotation.of_heads(0, shape.num_projected_heads)
        turned = self._rotate(projected, self._head_norm, turn)
        if shape.owns_keys:
            keys_and_values = turned[:, shape.num_heads :]
            step.write(shape.owner, keys_and_values.view(-1, 2, shape.num_kv_heads, shape.head_dim))
        return self._look(turned[:, : shape.num_heads], step)

    def _look(self, turned: Tensor, step: CacheStep) -> Tensor:
        """Returns what queries ``[num_tokens, num_heads, head_dim]`` see, a token's heads side by side."""
        shape = self.shape
        group = shape.num_heads // shape.num_kv_heads
        queries = turned.reshape(-1, shape.num_kv_heads, group, shape.head_dim)
        if step.num_new > 1 and shape.layer_type == SLIDING and step.num_new >= step.cache.sliding_window:
            return torch.cat([self._look_in_blocks(turned[x.queries], step, x) for x in step.blocks])
        span = step.spans[shape.layer_type]
        keys, values = self._seen(step, span)
        if step.num_new == 1:
            # A group's queries look at the same keys: to them they are as many positions.
            mask = None if span.mask is None else span.mask.expand(-1, -1, group, -1)
            seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)
            return seen.reshape(turned.shape[0], -1)
        # One slot: its key heads take the place of the batch, and each is lent to its group of queries.
        keys, values = (x.transpose(0, 1).expand(-1, group, -1, -1) for x in (keys, values))
        seen = functional.scaled_dot_product_attention(
            queries.permute(1, 2, 0, 3),
            keys,
            values,
            attn_mask=span.mask,
            is_causal=span.is_causal,
            scale=1.0,
        )
        return seen.permute(2, 0, 1, 3).reshape(len(turned), -1)

    def _seen(self, step: CacheStep, span: Span) -> tuple[Tensor, Tensor]:
        """Returns keys and values; where other layers read the same, what the first of them has read."""
        owner = self.shape.owner
        if self.shape.owns_keys:
            return step.read(owner, span)
        if owner not in step.shared:
            step.shared[owner] = step.read(owner, span)
        return step.shared[owner]

    def _look_in_blocks(self, turned: Tensor, step: CacheStep, blocks: Blocks) -> Tensor:
        """Returns what queries ``[num_tokens, num_heads, head_dim]`` of a prompt's blocks see."""
        shape, window = self.shape, step.cache.sliding_window
        num_blocks = len(turned) // blocks.size
        positions = Span(blocks.start, blocks.start + blocks.num_seen + (num_blocks - 1) * window)
        # Blocks take the place of the batch: [blocks, heads, positions, head_dim].
        keys, values = (
            x[0].unfold(1, blocks.num_seen, window).permute(1, 0, 3, 2)
            for x in step.read(shape.owner, positions)
        )
        group = shape.num_heads // shape.num_kv_heads
        keys, values = (x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for x in (keys, values))
        seen = functional.scaled_dot_product_attention(
            turned.unflatten(0, (num_blocks, blocks.size)).transpose(1, 2),
            keys,
            values,
            attn_mask=blocks.mask,
            is_causal=blocks.mask is None,
            scale=1.0,
        )
        return seen.transpose(1, 2).reshape(len(turned), -1)


def _mixing(coefficients: Tensor) -> Tensor:
    """Pads ``[4, 4 or 5, num_inputs]`` for five rows, the last of which stays: ``[25, num_inputs]``."""
    num_rows, num_columns, _ = coefficients.shape
    return functional.pad(coefficients, (0, 0, 0, NUM_ROWS - num_columns, 0, NUM_ROWS - num_rows)).flatten(
        0, 1
    )


def _correction(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of what every stream gets of the last row, less as much of the first."""
    ones = torch.ones_like(coefficients[:, :1])

    def mixing(x: Tensor) -> Tensor:
        nothing = torch.zeros_like(x)[:, None].expand(-1, NUM_STREAMS - 1, -1)
        return _mixing(torch.cat([-x[:, None], nothing, x[:, None]], dim=1))

    return mixing(coefficients), mixing(ones)[:, 0]
