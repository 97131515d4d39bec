"""Loading a checkpoint directory as the hub lays it out, whole and broken."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from gemma3n_appliance.demo import architecture
from gemma3n_appliance.engine.request import GenerationRequest, Image, Sampling
from gemma3n_appliance.errors import ModelLoadError
from gemma3n_appliance.model import loader
from gemma3n_appliance.settings import Settings


@pytest.fixture(params=["native", "reference"])
def engine(request):
    return request.param


@pytest.fixture
def load(engine, tmp_path):
    def with_defaults(directory: Path, **options):
        defaults = {"engine": engine, "device": "cpu", "num_slots": 2, "context_length": 2048}
        return loader.load(directory, Settings(cache_dir=tmp_path / "cache", **{**defaults, **options}))

    return with_defaults


def greedy(runner, token_ids, media=(), num_tokens=5):
    runner.begin([0], GenerationRequest("r", tuple(token_ids), Sampling(0.0), num_tokens, media))
    tokens = [runner.prefill(0, 1024)]
    while len(tokens) < num_tokens:
        tokens += runner.decode([0])
    runner.release(0)
    return tokens


@pytest.fixture
def own_copy(checkpoint_dir, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint_dir, tmp_path / "copy"))


def test_a_checkpoint_loads_with_what_the_engine_needs(load, engine, checkpoint_dir, tokenizer):
    with capture_logs() as logs:
        loaded = load(checkpoint_dir)
    assert (loaded.device, loaded.has_vision, loaded.has_audio) == ("cpu", True, True)
    assert (loaded.runner.num_slots, loaded.runner.max_context) == (2, 2048)
    assert loaded.eos_token_ids == set(tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]))
    assert logs[-1]["event"] == "model loaded"
    assert (loaded.num_bytes_left_on_disk > 0) == (engine == "native")
    assert logs[-1]["dtype"] == "float32"


def test_the_context_is_no_longer_than_the_model_was_made_for(load, checkpoint_dir):
    assert load(checkpoint_dir, context_length=100_000).runner.max_context == 4096


def test_pieces_join_to_what_the_tokenizer_decodes(load, checkpoint_dir, tokenizer):
    pieces = load(checkpoint_dir).pieces
    assert len(pieces) == len(tokenizer)
    text = "  What do you see,\n\nÜber 12 日本 🙂?"
    token_ids = tokenizer(text)["input_ids"]
    assert b"".join(pieces[i] for i in token_ids).decode() == text
    control = ["<bos>", "<eos>", "<end_of_turn>", "<image_soft_token>", "<end_of_audio>"]
    assert {pieces[i] for i in tokenizer.convert_tokens_to_ids(control)} == {b""}


def test_bfloat16_can_be_asked_for_on_the_cpu(load, checkpoint_dir):
    with capture_logs() as logs:
        loaded = load(checkpoint_dir, dtype="bfloat16")
    assert logs[-1]["dtype"] == "bfloat16"
    assert len(greedy(loaded.runner, [2, 20, 21, 22])) == 5


def test_a_processor_saved_in_the_hubs_older_format_is_understood(load, own_copy, checkpoint_dir, tokenizer):
    parts = json.loads((own_copy / "processor_config.json").read_text())
    image, audio = parts.pop("image_processor"), parts.pop("feature_extractor")
    image["image_processor_type"] = "SiglipImageProcessorFast"
    (own_copy / "preprocessor_config.json").write_text(json.dumps(audio | image))
    (own_copy / "processor_config.json").write_text(json.dumps(parts))
    token_ids = [2, *[tokenizer.convert_tokens_to_ids("<image_soft_token>")] * architecture.NUM_IMAGE_TOKENS]
    media = (Image(3, 2, bytes(range(18))),)
    older, newer = load(own_copy), load(checkpoint_dir)
    assert greedy(older.runner, token_ids, media) == greedy(newer.runner, token_ids, media)


@pytest.mark.parametrize("missing", ["timm", "torchvision"])
def test_without_its_image_libraries_a_checkpoint_serves_the_same_text(
    load, checkpoint_dir, monkeypatch, missing
):
    token_ids = [2, 20, 21, 22, 23]
    whole = greedy(load(checkpoint_dir).runner, token_ids)
    monkeypatch.setitem(sys.modules, missing, None)
    with capture_logs() as logs:
        loaded = load(checkpoint_dir)
    assert (loaded.has_vision, loaded.has_audio) == (False, False)
    assert "install timm" in logs[0]["event"]
    assert greedy(loaded.runner, token_ids) == whole


def test_a_text_only_checkpoint_serves_text(load, text_model, checkpoint_dir, tmp_path):
    text_model.save_pretrained(tmp_path)
    shutil.copy(checkpoint_dir / "tokenizer.json", tmp_path)
    loaded = load(tmp_path)
    assert (loaded.has_vision, loaded.has_audio) == (False, False)
    expected = text_model.generate(torch.tensor([[2, 20, 21]]), max_new_tokens=5, do_sample=False)
    assert greedy(loaded.runner, [2, 20, 21]) == expected[0, 3:].tolist()


def test_ends_are_found_without_a_generation_config(load, own_copy):
    (own_copy / "generation_config.json").unlink()
    assert load(own_copy).eos_token_ids == {1, 6}


def test_ends_are_found_where_the_generation_config_names_none(load, own_copy):
    (own_copy / "generation_config.json").write_text('{"do_sample": true}')
    assert load(own_copy).eos_token_ids == {1, 6}


def test_a_turns_end_is_an_end_even_if_left_out(load, own_copy):
    (own_copy / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert load(own_copy).eos_token_ids == {1, 6}


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _rename(name: str, other_name: str) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes().replace(name.encode(), other_name.encode()))


def _change(part: str, name: str, value: object) -> Callable[[Path], object]:
    def change(file: Path) -> None:
        config = json.loads(file.read_text())
        config[part][name] = value
        file.write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", Path.unlink),
        ("config.json", _truncate),
        ("config.json", lambda file: file.write_text('{"model_type": "llama"}')),
        ("config.json", lambda file: file.write_text('{"model_type": "unheard_of"}')),
        ("config.json", _change("text_config", "intermediate_size", [400] * 8)),
        ("config.json", _change("audio_config", "hidden_size", 400)),
        ("model.safetensors", Path.unlink),
        ("model.safetensors", _truncate),
        ("model.safetensors", _rename("layers.0.mlp.up_proj", "layers.0.mlp.xx_proj")),
        ("model.safetensors", _rename("embed_audio.soft", "embed_audio.hart")),
        ("tokenizer.json", Path.unlink),
        ("tokenizer.json", _truncate),
        ("processor_config.json", Path.unlink),
    ],
)
def test_a_broken_directory_is_named_with_what_to_do(load, own_copy, name, damage):
    damage(own_copy / name)
    with pytest.raises(ModelLoadError) as refused:
        load(own_copy)
    assert str(own_copy) in refused.value.message
    assert "gemma3n-appliance download" in refused.value.message


def test_a_gpu_that_is_not_there_is_missed(load, checkpoint_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelLoadError, match="DEVICE=cuda"):
        load(checkpoint_dir, device="cuda")
