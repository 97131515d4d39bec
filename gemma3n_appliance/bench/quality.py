"""What quantising costs: how far the demo model's next tokens are from those of its weights in bfloat16."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import AutoConfig, AutoTokenizer

from ..model import native
from ..model.kv_cache import KVCache
from ..model.parts import TextDecoder
from ..model.text_weights import Quantization
from .checkpoints import DEMO, END_IDS
from .compute import CPU
from .report import Row

HELD_OUT = DEMO.parent / "wordings/heldout.tsv"
NUM_QUESTIONS = 60
MOST_TOKENS = 40


@dataclass(frozen=True)
class Distance:
    """Of one model's next tokens from another's, over answers that the other gives.

    ``divergence`` is Kullback and Leibler's, in nats; ``agreement`` how often both like the same best.
    """

    divergence: float
    agreement: float


def rows(_cache: Path, _num_rounds: int) -> Iterator[Row]:
    """Measures and yields; every round would give the same."""
    for bits, found in distances("int8", "int4").items():
        yield Row(f"demo model, {bits}: divergence from bfloat16", "nats", [found.divergence])
        yield Row(f"demo model, {bits}: same best token as bfloat16", "%", [100 * found.agreement])


def distances(*kinds: Quantization, num_questions: int = NUM_QUESTIONS) -> dict[Quantization, Distance]:
    """Measures over questions that the demo model was not taught."""
    questions, plain = _questions(num_questions), _decoder("none")
    answers = [_answer(plain, question, None) for question in questions]
    return {kind: _distance(_decoder(kind), questions, answers) for kind in kinds}


def _distance(
    quantised: TextDecoder, questions: list[list[int]], answers: list[tuple[list[int], Tensor]]
) -> Distance:
    divergences, agreements = [], []
    for question, (answer, wanted) in zip(questions, answers, strict=True):
        _, found = _answer(quantised, question, answer)
        divergences.append(kl_div(found, wanted, reduction="none", log_target=True).sum(-1))
        agreements.append(found.argmax(dim=-1) == wanted.argmax(dim=-1))
    return Distance(torch.cat(divergences).mean().item(), torch.cat(agreements).float().mean().item())


def _decoder(quantization: Quantization) -> TextDecoder:
    config = AutoConfig.from_pretrained(DEMO, local_files_only=True)
    return native.load(DEMO, config.get_text_config(), torch.bfloat16, CPU, quantization).decoder


def _questions(number: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO, local_files_only=True)
    lines = [line.split("\t")[1] for line in HELD_OUT.read_text().splitlines()]
    asked = random.Random(0).sample(lines, number)
    chats = [[{"role": "user", "content": question}] for question in asked]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


@torch.inference_mode()
def _answer(decoder: TextDecoder, prompt: list[int], said: list[int] | None) -> tuple[list[int], Tensor]:
    """Returns an answer and log probabilities for each of its tokens.

    The answer is the model's own where none is put into its mouth.
    """
    cache = KVCache(decoder.config, 1, len(prompt) + MOST_TOKENS, CPU, decoder.dtype)
    cache.reserve(cache.max_context)
    answer, log_probabilities, new = [], [], prompt
    while len(answer) < MOST_TOKENS and new[0] not in END_IDS:
        step = cache.step([0], len(new))
        logits = decoder.logits(decoder.forward(decoder.embed([new]), step))[0].float()
        step.commit()
        cap = decoder.config.final_logit_softcapping
        log_probabilities.append((torch.tanh(logits / cap) * cap).log_softmax(dim=-1))
        answer.append(said[len(answer)] if said else int(logits.argmax()))
        new = answer[-1:]
    return answer, torch.stack(log_probabilities)
