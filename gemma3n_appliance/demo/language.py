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
COPYING_STEPS = 1_200
LOG_EVERY = 50
KEEP_EVERY = 250

DRAWS = {"copying": curriculum.copied, "text": curriculum.spoken, "media": curriculum.shown}

Learner = nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler


def train(
    model: Gemma3nForConditionalGeneration,
    processor: Gemma3nProcessor,
    rng: random.Random,
    num_steps: int,
    kept: Path,
) -> None:
    """Trains the decoder with the towers frozen: first to copy, then everything, every third step with media.

    What has been learnt is written to ``kept`` now and then, and taken up from there.
    """
    decoder = model.model.language_model
    for part in (
        model.model.vision_tower,
        model.model.audio_tower,
        model.model.embed_vision,
        model.model.embed_audio,
    ):
        part.requires_grad_(False)
    optimizers = _optimizers(decoder)
    schedules = [_schedule(optimizer, num_steps) for optimizer in optimizers]
    run = torch.compile(decoder, dynamic=True)
    done = _take_up(kept, decoder, *optimizers, *schedules)
    rng.seed(rng.getrandbits(32) + done)
    average = dict.fromkeys(DRAWS, 0.0)
    for step, (kind, batch) in enumerate(_stream(Teacher(processor), rng, done, num_steps), done + 1):
        loss = _loss(model, run, processor, batch)
        decoder.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for stepped in (*optimizers, *schedules):
            stepped.step()
        average[kind] += 0.05 * (loss.item() - average[kind])
        if step % LOG_EVERY == 0:
            losses = " ".join(f"{name} {value:.4f}" for name, value in average.items())
            log.info("language step %d/%d %s", step, num_steps, losses)
        if step % KEEP_EVERY == 0:
            _keep(kept, step, decoder, *optimizers, *schedules)


def _optimizers(decoder: nn.Module) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices, which learns in far fewer steps, and AdamW for the rest."""
    named = list(decoder.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed_tokens" not in name]
    others = [p for name, p in named if p.dim() != 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _schedule(optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        LEARNING_RATE,
        total_steps=num_steps,
        pct_start=0.03,
        final_div_factor=100.0,
        cycle_momentum=False,
    )


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


def _stream(teacher: Teacher, rng: random.Random, done: int, num_steps: int) -> Iterator[tuple[str, Batch]]:
    asked = wordings("taught")
    waiting: dict[str, list[Batch]] = {kind: [] for kind in DRAWS}
    for step in range(done, num_steps):
        kind = "copying" if step < COPYING_STEPS else "media" if step % 3 == 2 else "text"
        if not waiting[kind]:
            draw = DRAWS[kind]
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
