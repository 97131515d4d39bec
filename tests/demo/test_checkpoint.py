"""The checkpoint that ships is a whole Gemma 3n, in the hub's own format."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from gemma3n_appliance import demo

DIRECTORY = Path(demo.__file__).parent / "checkpoint_files"


@pytest.fixture(scope="module")
def config():
    return json.loads((DIRECTORY / "config.json").read_text())


def test_it_is_small():
    assert sum(file.stat().st_size for file in DIRECTORY.iterdir()) <= 15_000_000


def test_it_is_the_multimodal_model_with_every_part_of_the_architecture(config):
    assert config["architectures"] == ["Gemma3nForConditionalGeneration"]
    text = config["text_config"]
    assert text["altup_num_inputs"] == 4
    assert text["laurel_rank"] > 0
    assert text["hidden_size_per_layer_input"] > 0
    assert 0 < text["num_kv_shared_layers"] < text["num_hidden_layers"]
    assert set(text["layer_types"]) == {"sliding_attention", "full_attention"}
    assert 0.95 in text["activation_sparsity_pattern"]
    assert config["vision_config"]["architecture"] == "mobilenetv5_300m_enc"
    assert config["audio_config"]["conf_num_hidden_layers"] > 0


def test_its_pictures_become_more_tokens_than_its_window_holds(config):
    """Or nothing that is asked of it would notice a wrong window."""
    assert config["text_config"]["sliding_window"] < config["vision_soft_tokens_per_image"]


def test_it_is_saved_as_bfloat16():
    with safe_open(DIRECTORY / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"]
)
def test_what_the_hub_s_repository_has_is_there(name):
    assert (DIRECTORY / name).is_file()
