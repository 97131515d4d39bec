"""Trains the demo checkpoint from nothing: ``python -m gemma3n_appliance.demo.train DIRECTORY``.

Two cores, a fixed seed, no download. First the towers learn to see and hear, then the decoder to talk.
What a stage has learnt is kept in ``DIRECTORY/stages``: a run that was interrupted goes on from there.
"""

import argparse
import logging
import random
from pathlib import Path

import torch
from transformers import Gemma3nForConditionalGeneration, Gemma3nProcessor, GemmaTokenizer

from . import board, checkpoint, conversations, language, pictures, senses, vocabulary

SEED = 20261123
NUM_MERGES = 850
VISION_STEPS = 1_000
AUDIO_STEPS = 150
LANGUAGE_STEPS = 6_800

log = logging.getLogger(__name__)


def main() -> None:
    """Runs both stages and writes the checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("directory", type=Path, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=LANGUAGE_STEPS, help="steps of the language stage")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.directory, arguments.steps)


def train(directory: Path, num_language_steps: int) -> None:
    """Trains and writes the checkpoint to ``directory``."""
    stages = directory / "stages"
    stages.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    processor = checkpoint.processor(tokenizer())
    model = checkpoint.untrained(processor.tokenizer).train()
    log.info("%d parameters, %d ids", model.num_parameters(), len(processor.tokenizer))
    _train_senses(model, processor, stages / "senses.pt")

    rng = random.Random(SEED + 1)
    language.train(model, processor, rng, num_language_steps, stages / "language.pt")
    checkpoint.save(model, processor, directory)


def tokenizer() -> GemmaTokenizer:
    """Learns the tokenizer from everything the checkpoint is taught to hear and say."""
    taught = conversations.wordings("taught")
    asked = [text for texts in taught.by_key.values() for text in texts]
    seen = [f"the {colour} {shape}" for colour in pictures.COLOURS for shape in pictures.SHAPES]
    said = [text for text in ("user", "model", *seen, *taught.answers.values()) for _ in range(20)]
    return vocabulary.build([*asked, *said, *(board.told() * 10)], NUM_MERGES)


def _train_senses(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, kept: Path) -> None:
    if kept.exists():
        log.info("towers from %s", kept)
        model.load_state_dict(torch.load(kept), strict=False)
        return
    rng = random.Random(SEED)
    senses.train_audio(model, processor, rng, AUDIO_STEPS)
    senses.train_vision(model, processor, rng, VISION_STEPS)
    learnt = {
        name: tensor for name, tensor in model.state_dict().items() if "vision" in name or "audio" in name
    }
    torch.save(learnt, kept)


if __name__ == "__main__":
    main()
