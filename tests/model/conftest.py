"""Small random checkpoints, and a runner whose logits can be read."""

import gemma3n_appliance.model  # noqa: F401 - before transformers: it makes torchvision importable

# isort: split
import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig, PreTrainedModel

from gemma3n_appliance.demo import architecture, checkpoint, vocabulary
from gemma3n_appliance.engine.request import GenerationRequest, Media, Sampling
from gemma3n_appliance.model import feed_forward, linear, native, part, reference
from gemma3n_appliance.model.cuda_graph import GraphRecorder
from gemma3n_appliance.model.encoders import Encoders
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.parts import Parts
from gemma3n_appliance.model.runner import SlotRunner
from gemma3n_appliance.model.sampler import sample
from gemma3n_appliance.model.static_decoder import StaticDecoder

SLIDING, FULL = "sliding_attention", "full_attention"
GREEDY = Sampling(temperature=0.0)
# The last only where there is a GPU: a run without one cannot show anything about it.
ENGINES = ["native", "reference", "static", *(["recorded"] if torch.cuda.is_available() else [])]
SHAPES = {
    "shared layers, sparse, grouped queries": {
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL, SLIDING, FULL],
        "num_kv_shared_layers": 3,
        "activation_sparsity_pattern": [0.95] * 2 + [0.0] * 5,
        "sliding_window": 8,
        "num_key_value_heads": 2,
    },
    "nothing shared, dense, a head each": {
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 4,
        "sliding_window": 64,
        "num_key_value_heads": 4,
    },
    "tiny window, one head for all": {
        "layer_types": [FULL, SLIDING, SLIDING, FULL, SLIDING],
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.5, 0.95, 0.95, 0.0, 0.0],
        "sliding_window": 3,
        "num_key_value_heads": 1,
    },
}


@pytest.fixture(scope="session", autouse=True)
def small_models_are_computed_as_large_ones():
    """They have products by oneDNN, neurons at rest, and rows of the table that are read in two parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_MANY_WEIGHTS", 0)
        patch.setattr(part, "_FIRST_LAYERS", 1)
        patch.setattr(feed_forward, "_BYTES_OF_DOWN", 1)
        patch.setattr(feed_forward, "_BYTES_OF_BOTH", 0)
        yield


@torch.no_grad()
def scatter_weights(model: torch.nn.Module) -> None:
    """Moves norms away from one, and AltUp's output scale from the zero that hides the per-layer inputs."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.normal_(1.0, 0.2)


def random_text_model(**sizes: object) -> Gemma3nForCausalLM:
    """Makes one of what it has of ``sizes``; vocabulary, queries and context are always the same."""
    torch.manual_seed(1)
    config = Gemma3nTextConfig(
        vocab_size=300,
        vocab_size_per_layer_input=300,
        num_hidden_layers=len(sizes["layer_types"]),
        num_attention_heads=4,
        max_position_embeddings=1024,
        eos_token_id=None,
        **{"head_dim": 16, **sizes},
    )
    model = Gemma3nForCausalLM(config).eval()
    scatter_weights(model)
    return model


@pytest.fixture(scope="session", params=SHAPES)
def text_model(request: pytest.FixtureRequest) -> Gemma3nForCausalLM:
    return _text_model(request.param)


@functools.cache  # in a random order of tests, a fixture is made anew, and the oracle would be asked again
def _text_model(shape: str) -> Gemma3nForCausalLM:
    return random_text_model(
        hidden_size=48,
        intermediate_size=96,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        initializer_range=0.2,
        **SHAPES[shape],
    )


@pytest.fixture(scope="session")
def tokenizer():
    return vocabulary.build(["what do you see and hear in this picture? a low tone, Ü"] * 3, 40)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return checkpoint.processor(tokenizer)


@pytest.fixture(scope="session")
def multimodal_model(tokenizer):
    torch.manual_seed(2)
    model = checkpoint.untrained(tokenizer).eval()
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    return model


@pytest.fixture(scope="session")
def checkpoint_dir(multimodal_model, processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    save(multimodal_model, directory)
    processor.save_pretrained(directory)
    return directory


def save(model: PreTrainedModel, directory: Path) -> None:
    """Saves one that has a vision tower."""
    # timm has written objects that JSON does not know into the arguments it was given.
    model.config.vision_config.model_args = architecture.vision_model_args()
    model.save_pretrained(directory)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def text_dir(text_model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    text_model.save_pretrained(directory)
    return directory


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """As a share of the norm of what is wanted."""
    return ((found.float() - wanted).norm() / wanted.norm()).item()


class Steadfast(StaticDecoder):
    """Fails where the other would fall back."""

    def _give_up(self, reason: str) -> None:
        raise AssertionError(reason)


def _parts(engine: str, model, directory: Path) -> Parts:
    if engine == "reference":
        return reference.parts(model, directory)
    device = torch.device("cuda" if engine == "recorded" else "cpu")
    parts = native.load(directory, model.config, torch.float32, device)
    if engine == "native":
        return parts
    # Without a GPU as on one, but that nothing is recorded.
    recorder = GraphRecorder if engine == "recorded" else lambda: lambda compute: compute
    return dataclasses.replace(parts, decoder=Steadfast(parts.decoder, recorder))


@pytest.fixture(scope="session")
def text_parts(engine, text_model, text_dir) -> Parts:
    return _parts(engine, text_model, text_dir)


@pytest.fixture(scope="session")
def multimodal_parts(engine, multimodal_model, checkpoint_dir) -> Parts:
    return _parts(engine, multimodal_model, checkpoint_dir)


@pytest.fixture(scope="session")
def encoder(multimodal_model, checkpoint_dir) -> Encoders:
    return Encoders(multimodal_model.model, checkpoint_dir)


class Probe:
    """A runner in slots whose ``logits`` are the last step's, ``[batch, vocab]``."""

    def __init__(self, parts: Parts, num_slots: int = 4) -> None:
        self.decoder = decoder = parts.decoder
        self.encoder = parts.encoder
        self.cache = KVCache(decoder.config, num_slots, 1024, decoder.device, decoder.dtype)
        self.runner = SlotRunner(parts, self.cache, sample=self._sample)
        self.logits = torch.empty(0)

    def _sample(self, logits, choosers):
        self.logits = logits.cpu()
        return sample(logits, choosers)

    def start(
        self,
        slot: int,
        token_ids: list[int],
        chunk: int = 1024,
        sampling: Sampling = GREEDY,
        media: tuple[Media, ...] = (),
    ) -> int:
        """Prefills a prompt in chunks and returns its first token."""
        self.runner.begin([slot], GenerationRequest("r", tuple(token_ids), sampling, 200, media))
        while (token := self.runner.prefill(slot, chunk)) is None:
            pass
        return token

    def generate(self, slot: int, token_ids: list[int], num_tokens: int, sampling: Sampling) -> list[int]:
        """Runs one request alone."""
        tokens = [self.start(slot, token_ids, sampling=sampling)]
        while len(tokens) < num_tokens:
            tokens += self.runner.decode([slot])
        self.runner.release(slot)
        return tokens


@pytest.fixture
def probe(text_parts) -> Probe:
    return Probe(text_parts)


@pytest.fixture
def multimodal_probe(multimodal_parts) -> Probe:
    return Probe(multimodal_parts)


@pytest.fixture
def prompt() -> Callable[[int, int], list[int]]:
    """Returns a function of seed and length that makes up token ids."""
    return lambda seed, length: [*random.Random(seed).choices(range(300), k=length)]


@pytest.fixture
def assert_close() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Returns an assertion that two sets of logits differ by at most 1e-4 of their norm."""

    def check(ours: torch.Tensor, reference: torch.Tensor) -> None:
        assert ours.shape == reference.shape
        assert distance(ours, reference) <= 1e-4

    return check
