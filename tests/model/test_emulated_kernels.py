"""Our CUDA kernels held against transformers and against torch's operations, emulated on the CPU."""

import pytest
import torch
from transformers import Gemma3nForCausalLM

from gemma3n_appliance.model import native
from gemma3n_appliance.model.parts import Parts

from . import emulated_cuda, oracle
from .conftest import FULL, SLIDING, Probe, Steadfast, distance, random_text_model

CPU = torch.device("cpu")
SHAPES = {
    "sparse, one large key head for all queries": {
        "intermediate_size": 1120,  # more neurons than one block looks at
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.5, 0.0, 0.0],
        "sliding_window": 40,
        "num_key_value_heads": 1,
        "head_dim": 256,
    },
    "dense, a head each": {
        "intermediate_size": 96,
        "layer_types": [SLIDING, FULL, SLIDING],
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 3,
        "sliding_window": 8,
        "num_key_value_heads": 4,
    },
}
# Attention as on a board; and with more parts than are put together at a time, with several chunks each.
CUT_UP = {
    "sparse, one large key head for all queries": {},
    "dense, a head each": {"ATTENDING_WARPS": 8, "KEYS_OF_A_PART": 8, "MOST_PARTS": 9},
}


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(shape: str) -> Gemma3nForCausalLM:
    made = random_text_model(
        hidden_size=160,
        hidden_size_per_layer_input=32,
        laurel_rank=32,
        initializer_range=0.1,
        **SHAPES[shape],
    )
    # Scores of heads of any size are as those of sixteen numbers, or one key would be all that is seen.
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.q_norm.weight *= (16 / made.config.head_dim) ** 0.5
    return made


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def kernels_dir(shape, tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def by_ours(shape, model, directory, kernels_dir, monkeypatch):
    """Returns a function that loads the model to compute by our kernels."""
    # Fewer threads are emulated sooner, and blocks have more turns to take.
    emulated_cuda.cut_up(monkeypatch, TOKEN_THREADS=64, **CUT_UP[shape])

    def load(quantization: str = "none", *, recorded: bool = False) -> Probe:
        with emulated_cuda.emulated(kernels_dir):
            parts = native.load(directory, model.config, torch.float32, CPU, quantization)
        static = Steadfast(parts.decoder, lambda: lambda compute: compute)
        return Probe(Parts(static if recorded else parts.decoder, None, 0))

    return load


def wanted(model, token_ids: list[int]) -> torch.Tensor:
    return oracle.logits(model, token_ids)[-1]


@pytest.mark.parametrize(("length", "recorded"), [(1, False), (75, True)])
def test_one_token_after_the_other_has_the_logits_of_transformers(model, by_ours, prompt, length, recorded):
    probe = by_ours(recorded=recorded)
    token_ids = prompt(0, length)
    token_ids.append(probe.start(0, token_ids, chunk=32))
    for _ in range(2):
        (token,) = probe.runner.decode([0])
        assert distance(probe.logits[0], wanted(model, token_ids)) <= 1e-4
        token_ids.append(token)


def test_one_token_alone_is_few_launches_and_reads_no_weights_of_neurons_at_rest(model, by_ours):
    probe = by_ours()
    probe.start(0, [5, 6, 7])
    launched = emulated_cuda.Module.launched
    launched.clear()
    probe.runner.decode([0])
    sparsities = model.config.activation_sparsity_pattern
    num_layers, num_sparse = len(sparsities), sum(share >= 0.9 for share in sparsities)
    assert launched["token_gated_numbers"] == sparsities.count(0.0)
    assert launched["token_gates_numbers"] == num_layers - sparsities.count(0.0)
    assert launched["token_live"] == launched["token_down_live"] == num_sparse
    for name in ("token_inputs_numbers", "attend", "token_outputs_numbers", "token_chosen_numbers"):
        assert launched[name] == num_layers


def test_ragged_batches_have_the_logits_of_transformers(model, by_ours, prompt):
    probe = by_ours()
    texts = [prompt(seed, length) for seed, length in enumerate((3, 300, 70))]
    for slot, token_ids in enumerate(texts):
        token_ids.append(probe.start(slot, token_ids))
    for _ in range(2):
        tokens = probe.runner.decode(range(3))
        for row, token_ids in enumerate(texts):
            assert distance(probe.logits[row], wanted(model, token_ids)) <= 1e-4
            token_ids.append(tokens[row])


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_packed_weights_give_what_torchs_own_kernels_do(model, directory, by_ours, prompt, quantization):
    theirs = Probe(native.load(directory, model.config, torch.float32, CPU, quantization))
    ours = by_ours(quantization)
    for slot, length in enumerate((30, 7)):
        assert theirs.start(slot, prompt(length, length)) == ours.start(slot, prompt(length, length))
    for slots in ([1], [0, 1], [0]):
        for probe in (theirs, ours):
            for slot in slots:
                probe.runner._work[slot].last_token = 7
            probe.runner.decode(slots)
        # torch's multiply in bfloat16
        assert distance(ours.logits, theirs.logits) <= 0.05
