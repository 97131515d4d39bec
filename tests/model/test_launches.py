"""What a decode step asks of a GPU, counted without one: on tensors that have a shape and no numbers.

Norms and attention count as one, as which a GPU has them; on a CPU they are several.
"""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3nTextConfig, Gemma3nTextModel

from gemma3n_appliance.model import part
from gemma3n_appliance.model.decoder import Decoder
from gemma3n_appliance.model.embeddings import TokenEmbedder
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.linear import Dense
from gemma3n_appliance.model.static_step import StaticStep

NOWHERE = torch.device("meta")
# They launch nothing. (What a GPU's attention gives may be laid out so that a reshape of it copies.)
VIEWS = {
    *("_unsafe_view", "alias", "as_strided", "chunk", "detach", "detach_", "empty", "expand", "flatten"),
    *(
        "lift_fresh",
        "narrow",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    ),
}


class Launches(TorchDispatchMode):
    """Counts by name what is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self.from_host = 0
        self.waited_for = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.by_name[name] += 1
        result = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.device == NOWHERE:
            is_from_host = any(x.device != NOWHERE for x in given)
            self.from_host += is_from_host
            self.waited_for += is_from_host and not (kwargs or {}).get("non_blocking", False)
        return result


class Made(TorchFunctionMode):
    """Counts what is made of Python's numbers on the device, which is waited for, and is not dispatched."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self._launches = launches

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") == NOWHERE:
            self._launches.from_host += 1
            self._launches.waited_for += 1
        return function(*args, **(kwargs or {}))


class Table:
    """Rows on the host, as the real one's; notes what is read of them, and how much was launched by then."""

    def __init__(self, config: Gemma3nTextConfig) -> None:
        self._row_length = config.num_hidden_layers * config.hidden_size_per_layer_input
        self.launches = Launches()
        self.announced: list[tuple[list[int], slice]] = []
        self.read: list[tuple[list[int], slice]] = []
        self.launched: list[int] = []

    def rows(self, ids: list[int], _out: torch.Tensor | None = None) -> torch.Tensor:
        return self.columns(ids, slice(0, self._row_length))

    def announce(self, ids: list[int], columns: slice) -> None:
        self.announced.append((ids, columns))

    def columns(self, ids: list[int], columns: slice) -> torch.Tensor:
        self.read.append((ids, columns))
        self.launched.append(self.launches.by_name.total())
        return torch.empty(len(ids), columns.stop - columns.start, dtype=torch.bfloat16)


class Weights:
    """Without numbers."""

    def __init__(self, shapes: dict[str, torch.Size], prefix: str = "") -> None:
        self._shapes = shapes
        self._prefix = prefix

    def __call__(self, name: str) -> torch.Tensor:
        return torch.empty(self._shapes[self._prefix + name], device=NOWHERE, dtype=torch.bfloat16)

    def linear(self, _name: str, make: Callable[[], torch.Tensor], *, fine: bool = False) -> Dense:
        return Dense(make())

    def within(self, prefix: str) -> "Weights":
        return Weights(self._shapes, self._prefix + prefix)


@pytest.fixture
def config() -> Gemma3nTextConfig:
    """As many layers of each kind as E4B has."""
    return Gemma3nTextConfig(
        vocab_size=300,
        vocab_size_per_layer_input=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=35,
        num_kv_shared_layers=15,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7,
        activation_sparsity_pattern=[0.95] * 10 + [0.0] * 25,
    )


@pytest.fixture
def table(config) -> Table:
    return Table(config)


@pytest.fixture
def decoder(config, table) -> Decoder:
    with NOWHERE:
        shapes = {name: tensor.shape for name, tensor in Gemma3nTextModel(config).state_dict().items()}
    weights = Weights(shapes)
    embedding = Dense(weights("embed_tokens.weight"))
    embedder = TokenEmbedder(embedding, config.hidden_size, torch.bfloat16, NOWHERE)
    return Decoder(config, weights, table, embedder)


def cache_of(config: Gemma3nTextConfig, *lengths: int) -> KVCache:
    cache = KVCache(config, len(lengths), 256, NOWHERE, torch.bfloat16)
    cache.reserve(256)
    cache.lengths[:] = lengths
    return cache


# Whatever made the host wait for the GPU would raise: there is no number to wait for.
@pytest.mark.parametrize("lengths", [(20,), (20, 20), (20, 7, 33)], ids=["one", "two alike", "three ragged"])
@torch.inference_mode()
def test_a_decode_step_launches_few_kernels_and_waits_for_none(config, decoder, lengths):
    cache = cache_of(config, *lengths)
    with Launches() as launches:
        step = cache.step(range(len(lengths)), 1)
        decoder.logits(decoder.forward(decoder.embed([[5]] * len(lengths)), step))
    assert launches.by_name.total() <= 1400, launches.by_name.most_common()


@pytest.mark.parametrize("window", [512, 16], ids=["all is in the window", "in blocks"])
@torch.inference_mode()
def test_what_a_prompt_brings_from_the_host_is_not_waited_for(config, decoder, window):
    config.sliding_window = window
    cache = cache_of(config, 50)
    with Launches() as launches, Made(launches):
        decoder.remember(decoder.embed([[5, 6] * 50]), cache.step([0], 100))
        decoder.forward(decoder.embed([[5, 6] * 50]), cache.step([0], 100))
    assert launches.from_host >= 8  # ids, places and two reads of each, at least
    assert not launches.waited_for


@torch.inference_mode()
def test_a_prompts_rows_are_read_while_a_gpu_computes(config, decoder, table, monkeypatch):
    monkeypatch.setattr(part, "_FIRST_LAYERS", 4)
    cache = cache_of(config, 50)
    with Launches() as table.launches:
        decoder.forward(decoder.embed([[5, 6] * 50]), cache.step([0], 100))
    width = config.hidden_size_per_layer_input
    both, lower = [5, 6], slice(0, 19 * width)
    assert table.announced == [(both, lower)]
    first, rest, all_layers = slice(0, 4 * width), slice(4 * width, 19 * width), slice(0, 35 * width)
    assert table.read == [(both, first), (both, rest), ([6], all_layers)]
    before_first, before_rest, before_last = table.launched
    assert before_first >= 20  # the first layer, but for what it reads this for
    assert before_rest - before_first >= 4 * 20
    assert before_last - before_rest >= 14 * 20


@pytest.mark.parametrize("window", [512, 16], ids=["all is in the window", "some is behind it"])
@torch.inference_mode()
def test_a_step_that_is_recorded_brings_nothing_from_the_host(config, decoder, window):
    config.sliding_window = window
    cache = cache_of(config, 20, 33)
    with NOWHERE:
        ids = torch.empty(2, dtype=torch.int64)
        rows = torch.empty(2, config.num_hidden_layers * config.hidden_size_per_layer_input)
        slots = torch.empty(2, dtype=torch.int64)
        positions = torch.empty(2, 1, dtype=torch.int64)
    with Launches() as launches, Made(launches):
        decoder.logits(decoder.decode_text(ids, rows, StaticStep(cache, slots, positions, 64)))
    # What would be copied from the host when it is recorded would be the same at every replay.
    assert launches.from_host == 0
    assert launches.by_name.total() <= 1500, launches.by_name.most_common()
