"""Our own Gemma 3n text model, for inference alone: token ids in, logits out, over the slots of a cache.

What it computes is transformers' ``Gemma3nTextModel``. What it leaves out: in a prompt, every layer above the
last that owns keys and values runs for the last token only, because nothing else of theirs is ever read.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import Gemma3nTextConfig

from ..errors import ModelLoadError
from .embeddings import Embeddings, TokenEmbedder
from .kv_cache import FULL, SLIDING, CacheStep
from .layer import HALF_POWER, NUM_STREAMS, Layer, LayerShape, shapes
from .linear import Weights
from .part import Part
from .per_layer_table import PerLayerTable
from .rms_norm import RMSNorm
from .rotation import Rotation
from .sending import sent
from .static_step import StaticStep
from .streams import Streams
from .tokens import HeldRows, PromptRows, Tokens

# Of a layer's shape and weights, and whether what corrects the streams is scaled.
MakeLayer = Callable[[LayerShape, Weights, bool], Layer]
# Of the hidden size, and the model's last norm.
MakeStreams = Callable[[int, RMSNorm], Streams]


class Decoder:
    """The text model; ``weights`` gives its tensors by their names, such as ``norm.weight``."""

    def __init__(
        self,
        config: Gemma3nTextConfig,
        weights: Weights,
        table: PerLayerTable,
        embedder: TokenEmbedder,
        make_layer: MakeLayer = Layer,
        make_streams: MakeStreams = Streams,
    ) -> None:
        """``config`` must be one that `require_supported` lets pass."""
        self.config = config
        self.device = embedder.device
        self.dtype = embedder.dtype
        self._table = table
        self._embedder = embedder
        layers = [
            make_layer(each, weights.within(f"layers.{each.index}."), config.altup_correct_scale)
            for each in shapes(config)
        ]
        num_lower = config.num_hidden_layers - config.num_kv_shared_layers - 1
        # transformers scales by hidden_size ** -0.5 before the norm, which then feels its eps the more.
        norm = RMSNorm(
            weights("per_layer_projection_norm.weight") * HALF_POWER, config.rms_norm_eps * config.hidden_size
        )
        width = config.hidden_size_per_layer_input
        self._lower = Part("lower", layers[:num_lower], weights, norm, width)
        self._upper = Part("upper", layers[num_lower:], weights, norm, width)
        self._kinds = sorted(set(config.layer_types))
        self._frequencies = self._frequency_table()
        self._heads = {kind: self._heads_of(row) for row, kind in enumerate(self._kinds)}
        others = range(NUM_STREAMS - 1)
        self._projections = weights.linear(
            "streams",
            lambda: torch.cat([weights(f"altup_projections.{i}.weight") for i in others]),
            fine=True,
        )
        # [3, hidden_size (in), hidden_size (out)]
        self._unembed = torch.stack([weights(f"altup_unembed_projections.{i}.weight").T for i in others])
        last_norm = RMSNorm(weights("norm.weight"), config.rms_norm_eps)
        self._streams = make_streams(config.hidden_size, last_norm)

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embeds ``[batch, num_new]`` ids; pictures and clips may then be put in their places."""
        return self._embedder.embed(token_ids)

    def forward(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """Runs the new tokens, and returns the last position's state ``[batch, hidden_size]``.

        The new positions count once the caller commits ``step``.

        Raises:
            ValueError: several tokens of several slots, which nobody asks for.
        """
        if step.num_new == 1:
            return self._decode(self._single(embeddings.hidden.flatten(0, 1), embeddings.flat_ids), step)
        if len(step.slots) > 1:
            raise ValueError("A prompt is read for one slot at a time.")
        streams = self._remember(embeddings, step)[-1:]
        step, last = step.last(), self._single(embeddings.hidden[0, -1:], embeddings.flat_ids[-1:])
        return self._gather(self._upper.run(streams, last, step, self._rotation(step)))

    def decode(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`."""
        return self.logits(self.forward(self.embed([[token_id] for token_id in token_ids]), step))

    def decode_text(self, ids: Tensor, rows: Tensor, step: StaticStep) -> Tensor:
        """Returns the states ``[batch, hidden_size]`` of ids ``[batch]`` that no tower embeds.

        ``rows`` is what `table_rows` has of them. Asks the host for nothing.
        """
        return self._decode(Tokens(self._embedder.of_text(ids), HeldRows(rows.to(self.dtype))), step)

    def is_text(self, token_ids: Sequence[int]) -> bool:
        """Whether no tower embeds any of these ids."""
        return self._embedder.is_text(token_ids)

    def table_rows(self, token_ids: Sequence[int], out: Tensor | None = None) -> Tensor:
        """Returns tokens' rows of the per-layer table, on the host: ``[num_tokens, num_layers * width]``."""
        return self._table.rows(token_ids, out)

    def _decode(self, tokens: Tokens, step: CacheStep | StaticStep) -> Tensor:
        rotation = self._rotation(step)
        streams = self._lower.run(self._expand(tokens), tokens, step, rotation)
        streams = self._upper.run(streams, tokens, step, rotation)
        step.shared.clear()  # copies, of slots that are no neighbours
        return self._gather(streams)

    def remember(self, embeddings: Embeddings, step: CacheStep) -> None:
        """Runs tokens of a prompt that goes on: their keys and values are all that is left of them."""
        self._remember(embeddings, step)

    def logits(self, last_state: Tensor) -> Tensor:
        """Returns logits ``[batch, vocab_size]``, before they are capped."""
        return self._embedder.weight(last_state)

    def _single(self, hidden: Tensor, ids: Sequence[int]) -> Tokens:
        """Returns what the layers are given of one token of each slot, or of a prompt's last."""
        return Tokens(hidden, HeldRows(sent(self.table_rows(ids), self.device).to(self.dtype)))

    def _remember(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """Computes keys and values; returns what enters the last layer that owns any."""
        ids, columns = embeddings.flat_ids, self._lower.columns
        rows = PromptRows(self._table, ids, columns, self.dtype, self.device)
        tokens = Tokens(embeddings.hidden.flatten(0, 1), rows)
        rotation = self._rotation(step)
        streams = self._lower.run(self._expand(tokens), tokens, step, rotation)
        last = self._upper.layers[0]
        last.remember(streams, step, rotation[last.shape.layer_type])
        return streams

    def _expand(self, tokens: Tokens) -> Tensor:
        """Returns ``[num_tokens, 5, hidden_size]``: the streams, as they begin."""
        return self._streams.begin(tokens.hidden, self._projections(tokens.hidden))

    def _gather(self, rows: Tensor) -> Tensor:
        """Returns ``[num_tokens, hidden_size]``, what the streams end as."""
        others = torch.bmm(rows[:, 1:NUM_STREAMS].transpose(0, 1), self._unembed)
        return self._streams.end(rows, others)

    def _rotation(self, step: CacheStep | StaticStep) -> dict[str, Rotation]:
        """Returns how far the new tokens' heads are turned, by layer type."""
        angles = step.positions.flatten()[:, None, None] * self._frequencies
        cosines, sines = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return {
            kind: Rotation(cosines, sines, row, self._heads[kind]) for row, kind in enumerate(self._kinds)
        }

    def _frequency_table(self) -> Tensor:
        """Returns float32 ``[kinds + 1, head_dim]``; the last row is for values, which are not turned."""
        exponents = torch.arange(0, self.config.head_dim, 2).float() / self.config.head_dim
        bases = [self.config.rope_parameters[kind]["rope_theta"] for kind in self._kinds]
        half = torch.stack([1.0 / base**exponents for base in bases] + [torch.zeros_like(exponents)])
        # A roll brings the second half to the first, with the other sign; cosines have none.
        return torch.cat([-half, half], dim=-1).to(self.device)

    def _heads_of(self, row: int) -> Tensor:
        """Returns which row of that table the heads of queries, keys and values take."""
        num_turned = self.config.num_attention_heads + self.config.num_key_value_heads
        rows = [row] * num_turned + [len(self._kinds)] * self.config.num_key_value_heads
        return torch.tensor(rows, device=self.device)


def require_supported(config: Gemma3nTextConfig) -> None:
    """Raises ModelLoadError for what no published Gemma 3n has, and this would compute wrongly."""
    asked = {
        "altup_num_inputs": (config.altup_num_inputs, NUM_STREAMS),
        "altup_active_idx": (config.altup_active_idx, 0),
        "attention_bias": (config.attention_bias, False),
        "hidden_activation": (config.hidden_activation, "gelu_pytorch_tanh"),
        "tie_word_embeddings": (config.tie_word_embeddings, True),
        "layer_types": (set(config.layer_types) - {FULL, SLIDING}, set()),
    }
    asked |= {
        f"rope_parameters.{kind}.rope_type": (config.rope_parameters[kind]["rope_type"], "default")
        for kind in (FULL, SLIDING)
    }
    for name, (value, supported) in asked.items():
        if value != supported:
            raise ModelLoadError(
                f"The native engine does not compute a model with {name} {value}. Set ENGINE=reference."
            )
