"""Puts the demo checkpoint together and writes it in the hub's own file format."""

import copy
from importlib import resources
from pathlib import Path

import torch
from torch import nn
from transformers import (
    Gemma3nAudioFeatureExtractor,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    GemmaTokenizer,
    GenerationConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from . import architecture, vocabulary


def processor(tokenizer: GemmaTokenizer) -> Gemma3nProcessor:
    """Returns a processor with Gemma 3n's own settings, but for smaller, normalised pictures."""
    side = architecture.IMAGE_SIDE
    return Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(),
        image_processor=SiglipImageProcessorPil(size={"height": side, "width": side}, resample=2),
        tokenizer=tokenizer,
        chat_template=resources.files(__package__).joinpath("chat_template.jinja").read_text(),
        audio_seq_length=architecture.NUM_AUDIO_TOKENS,
        image_seq_length=architecture.NUM_IMAGE_TOKENS,
    )


def untrained(tokenizer: GemmaTokenizer) -> Gemma3nForConditionalGeneration:
    """Returns a float32 model with fresh weights."""
    config = architecture.config(vocabulary.num_text_tokens(tokenizer), tokenizer.get_vocab())
    model = Gemma3nForConditionalGeneration(config)
    _wake(model)
    return model


@torch.no_grad()
def _wake(model: Gemma3nForConditionalGeneration) -> None:
    """Starts the parts whose usual first values keep a small model deaf and blind for too long."""
    for layer in model.model.language_model.layers:
        layer.altup.correct_output_scale.fill_(1.0)
    for name, parameter in model.model.vision_tower.named_parameters():
        if name.endswith("layer_scale.gamma"):
            parameter.fill_(0.5)
    for module in model.model.vision_tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    projection = model.model.embed_vision.embedding_projection
    nn.init.normal_(projection.weight, std=projection.in_features**-0.5)


def save(model: Gemma3nForConditionalGeneration, processor: Gemma3nProcessor, directory: Path) -> None:
    """Writes model (as bfloat16), processor, template and generation config to ``directory``."""
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        top_k=64,
        top_p=0.95,
    )
    saved = copy.deepcopy(model).to(torch.bfloat16)
    saved.config.vision_config.model_args = architecture.vision_model_args()
    saved.save_pretrained(directory)
    processor.save_pretrained(directory)
