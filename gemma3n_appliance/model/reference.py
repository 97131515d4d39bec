"""The reference engine: transformers' own text model over our cache.

It is what our own is held against, and it serves Gemmas that our own does not compute.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)

from .embeddings import Embeddings, TokenEmbedder
from .kv_cache import FULL, SLIDING, CacheStep, Span
from .linear import Dense
from .parts import Parts
from .towers import require_complete, special_ranges

# Beside Gemma 3n, by the names that configurations have for them. They are served for text alone.
OTHER_MODELS = ("gemma", "gemma2", "gemma3", "gemma3_text")
_THEIR_TOWERS = ("vision_tower", "multi_modal_projector")


def load(directory: Path, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> Parts:
    """Loads Gemma 3n or one of `OTHER_MODELS` as transformers does.

    Raises:
        ValueError: weights are missing or misshapen, or it is a model that does not generate.
    """
    text_config = config.get_text_config()
    if getattr(text_config, "use_bidirectional_attention", None):
        raise ValueError("It looks ahead, so that it embeds texts, and does not write any.")
    # Gemma 2 caps attention's scores, which only that does.
    attention = "eager" if getattr(text_config, "attn_logit_softcapping", None) else "sdpa"
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        attn_implementation=attention if text_config is config else {"text_config": attention},
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    require_complete({str(key) for key in loading["missing_keys"] | loading["mismatched_keys"]})
    if not isinstance(config, Gemma3nConfig) and text_config is not config:
        for tower in _THEIR_TOWERS:
            delattr(model.model, tower)
    return parts(model.to(device), directory)


def parts(model: PreTrainedModel, directory: Path) -> Parts:
    """Takes a model apart; ``directory`` is where its processors are."""
    encoder = None
    if isinstance(model, Gemma3nForConditionalGeneration):
        from .encoders import Encoders  # imports torchvision, which is known to be there by now

        encoder = Encoders(model.model, directory)
    return Parts(ReferenceDecoder(model), encoder, model.get_memory_footprint())


class ReferenceDecoder:
    """A text model of transformers', alone or taken out of a multimodal one."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = _as_of_gemma_3n(model.config.get_text_config())
        self._lm_head = model.lm_head
        self._text = getattr(model.model, "language_model", model.model)
        has_towers = isinstance(model, Gemma3nForConditionalGeneration)
        ranges = special_ranges(model.model) if has_towers else ()
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
        cache = _TransformersCache(step)
        masks = cache.masks()
        output = self._text(
            inputs_embeds=embeddings.hidden,
            # The first Gemma has layers of one type.
            attention_mask=masks if hasattr(self.config, "layer_types") else masks[FULL],
            position_ids=step.positions,
            past_key_values=cache,
            **self._per_layer_inputs(embeddings.token_ids),
        )
        return output.last_hidden_state[:, -1]

    def _per_layer_inputs(self, token_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        if not hasattr(self._text, "get_per_layer_inputs"):
            return {}
        ids = torch.tensor(token_ids, device=self.device)
        # Those beyond the table are for the towers; transformers gives them row 0.
        in_table = torch.where(ids < self.config.vocab_size_per_layer_input, ids, 0)
        return {"per_layer_inputs": self._text.get_per_layer_inputs(in_table)}

    def remember(self, embeddings: Embeddings, step: CacheStep) -> None:
        """See `parts.TextDecoder`."""
        self.forward(embeddings, step)

    def decode(self, token_ids: Sequence[int], step: CacheStep) -> Tensor:
        """See `parts.TextDecoder`."""
        return self.logits(self.forward(self.embed([[token_id] for token_id in token_ids]), step))

    def logits(self, last_state: Tensor) -> Tensor:
        """See `parts.TextDecoder`."""
        return self._lm_head(last_state)


def _as_of_gemma_3n(config: PretrainedConfig) -> PretrainedConfig:
    """Says of another Gemma what the cache and the runner ask of a configuration, and only Gemma 3n's has."""
    lacking = {
        "num_kv_shared_layers": 0,
        "final_logit_softcapping": None,
        "sliding_window": config.max_position_embeddings,
    }
    for name, value in lacking.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    return config


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
        """Returns what to add to scores, by layer type: ``[batch, 1, num_new, longest]``."""
        queries = self._step.positions[:, None, :, None]
        keys = torch.arange(self._step.longest, device=queries.device)
        causal = keys <= queries
        cache = self._step.cache
        near = causal & (keys > queries - cache.sliding_window)
        return {FULL: cache.mask(causal), SLIDING: cache.mask(near)}
