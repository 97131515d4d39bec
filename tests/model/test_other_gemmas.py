"""Gemmas other than 3n, which transformers computes: in slots as alone."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
)

from gemma3n_appliance.errors import ModelLoadError
from gemma3n_appliance.model import loader, reference
from gemma3n_appliance.settings import Settings

from . import oracle
from .conftest import FULL, SLIDING, scatter_weights

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
IN_WINDOWS = SIZES | {
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "sliding_window": 8,
    "query_pre_attn_scalar": 16,
}
EYES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS = {
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**IN_WINDOWS, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3_text": Gemma3TextConfig(**IN_WINDOWS),
    "gemma3": Gemma3Config(text_config=IN_WINDOWS, vision_config=EYES, mm_tokens_per_image=4),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    torch.manual_seed(3)
    # Scores that are capped are so by this implementation alone.
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], attn_implementation="eager").eval()
    scatter_weights(model)
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("other")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def text_parts(directory):
    """What the probe is over."""
    return reference.load(directory, AutoConfig.from_pretrained(directory), torch.float32, CPU)


def test_every_kind_is_known():
    assert set(CONFIGS) == set(reference.OTHER_MODELS)


def test_it_computes_in_slots_and_in_chunks_what_it_computes_alone(model, probe, prompt, assert_close):
    assert probe.encoder is None
    texts = {3: prompt(2, 33), 0: prompt(3, 4), 2: prompt(4, 61)}
    begun = {slot: list(token_ids) for slot, token_ids in texts.items()}
    for slot, token_ids in texts.items():
        token_ids.append(probe.start(slot, token_ids, chunk=7))
    for _ in range(11):
        for slot, token in zip(texts, probe.runner.decode(list(texts)), strict=True):
            texts[slot].append(token)
    for row, (slot, token_ids) in enumerate(texts.items()):
        assert_close(probe.logits[row], oracle.logits(model, token_ids[:-1])[-1])
        wanted = oracle.generated(model, begun[slot], max_new_tokens=12)
        assert token_ids[len(begun[slot]) :] == wanted


def test_a_prompt_that_begins_like_one_before_is_read_from_there(model, probe, prompt, assert_close):
    first = prompt(5, 40)
    probe.start(0, first)
    probe.runner.release(0)
    following = first[:30] + prompt(6, 9)
    probe.start(0, following)
    assert_close(probe.logits[0], oracle.logits(model, following)[-1])


def test_the_native_engine_says_which_computes_it(directory):
    with pytest.raises(ModelLoadError, match=r"native engine computes Gemma 3n. Set ENGINE=reference"):
        loader._config(directory, Settings(model_name=str(directory)))


def test_a_model_that_embeds_texts_is_refused(directory):
    config = AutoConfig.from_pretrained(directory)
    config.get_text_config().use_bidirectional_attention = True
    with pytest.raises(ValueError, match="does not write any"):
        reference.load(directory, config, torch.float32, CPU)
