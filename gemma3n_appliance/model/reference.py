"""The reference engine: transformers' own text model over our cache. What our own is held against."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Gemma3nConfig,
    Gemma3nForCausalLM,
    Gemma3nForConditionalGeneration,
    Gemma3nTextConfig,
)

from .embeddings import Embeddings, TokenEmbedder
from .kv_cache import FULL, SLIDING, CacheStep, Span
from .linear import Dense
from .parts import Parts
from .towers import require_complete, special_ranges

Model = Gemma3nForConditionalGeneration | Gemma3nForCausalLM


def load(
    directory: Path, config: Gemma3nConfig | Gemma3nTextConfig, dtype: torch.dtype, device: torch.device
) -> Parts:
    """Loads everything as transformers does.

    Raises:
        ValueError: weights are missing or misshapen.
    """
    is_multimodal = isinstance(config, Gemma3nConfig)
    model_class = Gemma3nForConditionalGeneration if is_multimodal else Gemma3nForCausalLM
    model, loading = model_class.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        # Our masks are boolean: eager attention would add them instead of obeying them.
        attn_implementation={"text_config": "sdpa"} if is_multimodal else "sdpa",
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    require_complete({str(key) for key in loading["missing_keys"] | loading["mismatched_keys"]})
    return parts(model.to(device), directory)


def parts(model: Model, directory: Path) -> Parts:
    """Takes a model apart; ``directory`` is where its processors are."""
    encoder = None
    if isinstance(model, Gemma3nForConditionalGeneration):
        from .encoders import Encoders  # imports torchvision, which is known to be there by now

        encoder = Encoders(model.model, directory)
    return Parts(ReferenceDecoder(model), encoder, model.get_memory_footprint())


class ReferenceDecoder:
    """A Gemma 3n text model of transformers', alone or taken out of a multimodal one."""

    def __init__(self, model: Model) -> None:
        self.config = model.config.get_text_config()
        self._lm_head = model.lm_head
        is_alone = isinstance(model, Gemma3nForCausalLM)
        self._text = model.model if is_alone else model.model.language_model
        ranges = () if is_alone else special_ranges(model.model)
        self._embedder = TokenEmbedder(
            Dense(self._text.embed_tokens.weight), self.config.hidden_size, self.dtype, self.device, ranges
        )

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._lm_head.weight.dtype

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """See `parts.TextDecoder`."""
        return self._embedder.embed(token_ids)

    def forward(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`. Runs all layers for all tokens, as transformers does."""
        ids = torch.tensor(embeddings.token_ids, device=self.device)
        # Those beyond the table are for the towers; transformers gives them row 0.
        in_table = torch.where(ids < self.config.vocab_size_per_layer_input, ids, 0)
        cache = _TransformersCache(step)
        output = self._text(
            inputs_embeds=embeddings.hidden,
            per_layer_inputs=self._text.get_per_layer_inputs(in_table),
            attention_mask=cache.masks(),
            position_ids=step.positions,
            past_key_values=cache,
        )
        return output.last_hidden_state[:, -1]

    def remember(self, embeddings: Embeddings, step: CacheStep) -> None:
        """See `parts.TextDecoder`."""
        self.forward(embeddings, step)

    def decode(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`."""
        return self.logits(self.forward(self.embed([[token_id] for token_id in token_ids]), step))

    def logits(self, last_state: Tensor) -> Tensor:
        """See `parts.TextDecoder`."""
        return self._lm_head(last_state)


class _TransformersCache:
    """A step over our cache, behind the one call that transformers' layers make of a ``Cache``."""

    def __init__(self, step: CacheStep) -> None:
        self._step = step
        self._span = Span(0, step.longest)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Writes ``[batch, kv_heads, num_new, head_dim]`` and returns all positions so far."""
        new = torch.stack([key.transpose(1, 2), value.transpose(1, 2)], dim=2)
        self._step.write(layer_idx, new.flatten(0, 1))
        return self._step.read(layer_idx, self._span)

    def masks(self) -> dict[str, Tensor]:
        """Returns who may look at whom, by layer type: bool ``[batch, 1, num_new, longest]``."""
        queries = self._step.positions[:, None, :, None]
        keys = torch.arange(self._step.longest, device=queries.device)
        causal = keys <= queries
        return {FULL: causal, SLIDING: causal & (keys > queries - self._step.cache.sliding_window)}
