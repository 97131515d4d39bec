"""Second stage of training: the decoder learns to talk, and to read what the towers see and hear."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor

from . import curriculum, senses
from .conversations import wordings
from .lessons import IGNORED, Batch, Teacher
from .tones import Clip

log = logging.getLogger(__name__)

LEARNING_RATE = 2e-3
LOG_EVERY = 50
KEEP_EVERY = 250

Learner = nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler


def train(
    model: Gemma3nForConditionalGeneration,
    processor: Gemma3nProcessor,
    rng: random.Random,
    num_steps: int,
    kept: Path,
) -> None:
    """Trains the decoder with the towers frozen; every third step has media.

    What has been learnt is written to ``kept`` now and then, and taken up from there.
    """
    decoder = model.model.language_model
    parameters = list(decoder.parameters())
    for part in (
        model.model.vision_tower,
        model.model.audio_tower,
        model.model.embed_vision,
        model.model.embed_audio,
    ):
        part.requires_grad_(False)
    optimizer = torch.optim.AdamW(_decayed(decoder), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=num_steps, pct_start=0.05, final_div_factor=100.0
    )
    run = torch.compile(decoder, dynamic=True)
    done = _take_up(kept, decoder, optimizer, schedule)
    rng.seed(rng.getrandbits(32) + done)
    average = {"text": 0.0, "media": 0.0}
    for step, (kind, batch) in enumerate(_stream(Teacher(processor), rng, num_steps - done), done + 1):
        loss = _loss(model, run, processor, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average[kind] += 0.05 * (loss.item() - average[kind])
        if step % LOG_EVERY == 0:
            log.info(
                "language step %d/%d text %.4f media %.4f", step, num_steps, average["text"], average["media"]
            )
        if step % KEEP_EVERY == 0:
            _keep(kept, step, decoder, optimizer, schedule)


def _keep(kept: Path, step: int, *learners: Learner) -> None:
    partial = kept.with_suffix(".partial")
    torch.save({"step": step, "learners": [learner.state_dict() for learner in learners]}, partial)
    partial.replace(kept)


def _take_up(kept: Path, *learners: Learner) -> int:
    """Restores what was kept and returns the number of steps that it has had."""
    if not kept.exists():
        return 0
    state = torch.load(kept)
    for learner, learnt in zip(learners, state["learners"], strict=True):
        learner.load_state_dict(learnt)
    log.info("language from step %d", state["step"])
    return int(state["step"])


def _decayed(decoder: nn.Module) -> list[dict]:
    matrices = [p for p in decoder.parameters() if p.dim() > 1]
    vectors = [p for p in decoder.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def _stream(teacher: Teacher, rng: random.Random, num_steps: int) -> Iterator[tuple[str, Batch]]:
    asked = wordings("taught")
    waiting: dict[str, list[Batch]] = {"text": [], "media": []}
    for step in range(num_steps):
        kind = "media" if step % 3 == 2 else "text"
        if not waiting[kind]:
            draw = curriculum.shown if kind == "media" else curriculum.spoken
            waiting[kind] = teacher.batches(lambda draw=draw: draw(rng, asked), rng)
        yield kind, waiting[kind].pop()


def _loss(
    model: Gemma3nForConditionalGeneration, run: nn.Module, processor: Gemma3nProcessor, batch: Batch
) -> Tensor:
    decoder = model.model.language_model
    embeds = _embed(model, processor, batch)
    hidden = run(
        inputs_embeds=embeds,
        per_layer_inputs=decoder.get_per_layer_inputs(batch.token_ids),
        attention_mask=_masks(batch.token_ids.shape[1], model.config.text_config.sliding_window),
        use_cache=False,
    ).last_hidden_state
    wanted = batch.labels[:, 1:]
    spoken = wanted != IGNORED
    cap = model.config.text_config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(hidden[:, :-1][spoken]) / cap)
    return nn.functional.cross_entropy(logits, wanted[spoken])


def _masks(length: int, window: int) -> dict[str, Tensor]:
    """Made here, or torch.compile would compile twice: for lengths within the window and beyond."""
    position = torch.arange(length)
    distance = position[:, None] - position[None, :]
    causal = distance >= 0
    return {
        "full_attention": causal[None, None],
        "sliding_attention": (causal & (distance < window))[None, None],
    }


def _embed(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, batch: Batch) -> Tensor:
    """Embeds ids ``[batch, longest]`` and puts soft tokens in their places, as the multimodal model does."""
    ids = batch.token_ids
    embeds = model.get_input_embeddings()(ids)
    for embedder, end in (
        (model.model.embed_vision, model.model.embed_audio.vocab_offset),
        (model.model.embed_audio, len(processor.tokenizer)),
    ):
        hard = (ids >= embedder.vocab_offset) & (ids < end)
        if hard.any():
            embeds = embeds.masked_scatter(hard.unsqueeze(-1), embedder(input_ids=ids[hard]))
    config = model.config
    if batch.images:
        with torch.no_grad():
            soft = senses.image_tokens(model, senses.pixel_values(processor, batch.images))
        embeds = embeds.masked_scatter((ids == config.image_token_id).unsqueeze(-1), soft)
    if batch.audio:
        with torch.no_grad():
            soft = torch.stack([_heard(model, processor, clip) for clip in batch.audio])
        embeds = embeds.masked_scatter((ids == config.audio_token_id).unsqueeze(-1), soft)
    return embeds


def _heard(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, clip: Clip) -> Tensor:
    """Encodes one clip and fills up to the fixed number of soft tokens with the last audio id's embedding."""
    tokens = senses.audio_tokens(model, senses.mel_frames(processor, [clip]))[0]
    length = model.config.audio_soft_tokens_per_image
    padding = model.model.embed_audio(input_ids=torch.tensor([len(processor.tokenizer) - 1]))
    return torch.cat((tokens, padding.expand(length - len(tokens), -1)))
