"""The text model: embeds token ids, runs transformers' layers over our cache, returns logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Gemma3nForCausalLM, Gemma3nForConditionalGeneration

from .kv_cache import CacheStep


@dataclass(frozen=True)
class Embeddings:
    """What enters the first layer, and what enters each.

    ``hidden`` is ``[batch, num_new, hidden_size]``; ``per_layer`` is
    ``[batch, num_new, num_layers, hidden_size_per_layer_input]``.
    """

    hidden: Tensor
    per_layer: Tensor


class Decoder:
    """A Gemma 3n text model, alone or taken out of a multimodal one.

    Its multimodal parent is called for nothing but the embeddings of ids in the vision and audio ranges:
    the parent's own forward embeds a dummy picture and a dummy clip at every step.
    """

    def __init__(self, model: Gemma3nForConditionalGeneration | Gemma3nForCausalLM) -> None:
        self.config = model.config.get_text_config()
        self._lm_head = model.lm_head
        self._ranges: list[tuple[int, int, torch.nn.Module]] = []
        if isinstance(model, Gemma3nForCausalLM):
            self._text = model.model
        else:
            self._text = model.model.language_model
            vision, audio = model.model.embed_vision, model.model.embed_audio
            self._ranges = [
                (vision.vocab_offset, audio.vocab_offset, vision),
                (audio.vocab_offset, self.config.vocab_size, audio),
            ]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._lm_head.weight.dtype

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embeds ``[batch, num_new]`` ids as Gemma3nModel.forward does.

        Ids beyond the per-layer table stand for its row 0 there; ids in the vision and audio ranges have
        embedding tables of their own.
        """
        on_host = torch.tensor(token_ids)
        ids = on_host.to(self.device)
        hidden = self._text.embed_tokens(ids)
        for start, end, embedder in self._ranges:
            inside = (on_host >= start) & (on_host < end)
            if inside.any():
                rows = inside.to(self.device)
                hidden[rows] = embedder(input_ids=ids[rows]).to(hidden.dtype)
        in_table = torch.where(ids < self.config.vocab_size_per_layer_input, ids, 0)
        return Embeddings(hidden, self._text.get_per_layer_inputs(in_table))

    def forward(self, embeddings: Embeddings, step: CacheStep) -> Tensor:
        """Runs all layers and returns the last position's state ``[batch, hidden_size]``.

        The new positions count once the caller commits ``step``.
        """
        output = self._text(
            inputs_embeds=embeddings.hidden,
            per_layer_inputs=embeddings.per_layer,
            attention_mask=step.masks(),
            position_ids=step.positions,
            past_key_values=step,
        )
        return output.last_hidden_state[:, -1]

    def logits(self, last_state: Tensor) -> Tensor:
        """Returns soft-capped float32 logits ``[batch, vocab_size]``.

        Capped in float32 also where the model runs in bfloat16, whose tanh would merge the best candidates.
        """
        logits = self._lm_head(last_state).float()
        cap = self.config.final_logit_softcapping
        return logits if cap is None else cap * torch.tanh(logits / cap)
