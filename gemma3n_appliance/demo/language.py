"""Second stage of training: the decoder learns to talk, and to read what the towers see and hear."""

import itertools
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor

from . import curriculum
from .conversations import Conversation, wordings
from .lessons import IGNORED, Batch, Teacher
from .stock import Stock

log = logging.getLogger(__name__)

LEARNING_RATE = 2e-3
COPYING_STEPS = 1_000
RISING = 0.03  # the share of the first steps in which the rate rises
# The rate falls a second time; the mean of what both falls end in knows more than either (arXiv:1803.05407).
SECOND_STEPS = 1_000
# The shares of conversations with pictures or a sound, and with functions, once copying is learnt.
SHOWN = 0.35
CALLED = 0.15
LOG_EVERY = 50
KEEP_EVERY = 250

Learner = nn.Module | torch.optim.Optimizer


def train(
    model: Gemma3nForConditionalGeneration,
    processor: Gemma3nProcessor,
    rng: random.Random,
    num_steps: int,
    kept: Path,
) -> None:
    """Trains the decoder with the towers frozen: first to copy, then everything.

    What has been learnt is written to ``kept`` now and then, and taken up from there.
    """
    decoder = model.model.language_model
    model.requires_grad_(False)
    decoder.requires_grad_(True)
    stock = Stock(model, processor, rng)
    optimizers = _optimizers(decoder)
    run = torch.compile(decoder)
    mean = torch.optim.swa_utils.AveragedModel(decoder)
    done = _take_up(kept, decoder, *optimizers, mean)
    rng.seed(rng.getrandbits(32) + done)
    average = 0.0
    for step, batch in enumerate(_stream(Teacher(processor), rng, stock, done, num_steps), done + 1):
        loss = _loss(model, run, stock, batch)
        decoder.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step - 1, num_steps)
            optimizer.step()
        if step in (num_steps - SECOND_STEPS, num_steps):
            mean.update_parameters(decoder)
        average += 0.05 * (loss.item() - average)
        if step % LOG_EVERY == 0:
            log.info("language step %d/%d loss %.4f", step, num_steps, average)
        if step % KEEP_EVERY == 0:
            _keep(kept, step, decoder, *optimizers, mean)
    decoder.load_state_dict(mean.module.state_dict())


def _optimizers(decoder: nn.Module) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices, which learns in far fewer steps, and AdamW for the rest."""
    named = list(decoder.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed_tokens" not in name]
    others = [p for name, p in named if p.dim() != 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, num_steps: int) -> float:
    """Returns the learning rate of a step, counted from 0: it rises and falls, and falls again from half."""
    num_first = num_steps - SECOND_STEPS
    if step < num_first:
        rising = (step + 1) / (RISING * num_first)
        return LEARNING_RATE * min(rising, 0.5 + 0.5 * math.cos(math.pi * step / num_first))
    return LEARNING_RATE / 2 * (num_steps - step) / SECOND_STEPS


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


def _stream(teacher: Teacher, rng: random.Random, stock: Stock, done: int, num_steps: int) -> Iterator[Batch]:
    asked = wordings("taught")

    def mixed() -> Conversation:
        kind = rng.random()
        if kind < SHOWN:
            return curriculum.shown(rng, asked, stock.media)
        return (curriculum.called if kind < SHOWN + CALLED else curriculum.spoken)(rng, asked)

    copying = teacher.batches(lambda: curriculum.copied(rng, asked))
    yield from itertools.islice(copying, max(0, min(COPYING_STEPS, num_steps) - done))
    yield from itertools.islice(teacher.batches(mixed), max(0, num_steps - max(done, COPYING_STEPS)))


def _loss(model: Gemma3nForConditionalGeneration, run: nn.Module, stock: Stock, batch: Batch) -> Tensor:
    decoder = model.model.language_model
    hidden = run(
        inputs_embeds=_embed(model, stock, batch),
        per_layer_inputs=decoder.get_per_layer_inputs(batch.token_ids),
        attention_mask=_masks(batch.lesson, model.config.text_config.sliding_window),
        use_cache=False,
    ).last_hidden_state
    wanted = batch.labels[:, 1:]
    spoken = wanted != IGNORED
    cap = model.config.text_config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(hidden[:, :-1][spoken]) / cap)
    return nn.functional.cross_entropy(logits, wanted[spoken])


def _masks(lesson: Tensor, window: int) -> dict[str, Tensor]:
    """Returns what each position ``[rows, length]`` may attend to: earlier ones of its own lesson."""
    position = torch.arange(lesson.shape[1])
    distance = position[:, None] - position[None, :]
    earlier = (distance >= 0) & (lesson[:, :, None] == lesson[:, None, :])
    return {
        "full_attention": earlier[:, None],
        "sliding_attention": (earlier & (distance < window))[:, None],
    }


def _embed(model: Gemma3nForConditionalGeneration, stock: Stock, batch: Batch) -> Tensor:
    """Embeds ids ``[rows, length]`` and puts soft tokens in their places, as the multimodal model does."""
    ids = batch.token_ids
    embeds = model.get_input_embeddings()(ids)
    for embedder, end in (
        (model.model.embed_vision, model.model.embed_audio.vocab_offset),
        (model.model.embed_audio, model.config.text_config.vocab_size),
    ):
        hard = (ids >= embedder.vocab_offset) & (ids < end)
        if hard.any():
            embeds = embeds.masked_scatter(hard.unsqueeze(-1), embedder(input_ids=ids[hard]))
    for token_id, media in (
        (model.config.image_token_id, batch.images),
        (model.config.audio_token_id, batch.audio),
    ):
        if media:
            embeds = embeds.masked_scatter((ids == token_id).unsqueeze(-1), stock.soft_tokens(media))
    return embeds
