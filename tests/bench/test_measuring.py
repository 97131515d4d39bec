"""What the bench compares is the same thing twice, and what it says of a server is what happened."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gemma3n_appliance.bench import checkpoints, compiled, compute, gpu, load, servers
from gemma3n_appliance.bench.checkpoints import Shape
from gemma3n_appliance.bench.servers import Server

TINY = Shape("tiny", 10, 5, 32, 64, num_heads=2, head_dim=16, table_width=8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.at(tmp_path_factory.mktemp("bench"), TINY)


def test_a_checkpoint_is_made_once(directory: Path):
    made = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert checkpoints.at(directory.parent, TINY) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == made


@pytest.mark.parametrize("batch", [1, 3])
def test_both_models_are_asked_for_the_same_tokens(directory: Path, batch: int):
    models = compute.Models(compute.Ours(directory, TINY))
    assert models.ours.decode(batch).tokens == models.their_decode(batch, "float32").tokens
    assert models.ours.prefill().tokens == models.their_prefill(1, "float32").tokens


def test_a_row_has_every_round_of_ours_and_of_the_better_of_theirs(directory: Path, monkeypatch):
    quick = compute.Timed(0.001, [])
    slow = compute.Timed(0.002, [])
    models = compute.Models(compute.Ours(directory, TINY, "int8"))
    assert len(models.ours.decode(2).tokens) == 2
    monkeypatch.setattr(models.ours, "decode", lambda _batch: quick)
    monkeypatch.setattr(models, "their_decode", lambda _, dtype: quick if dtype == "bfloat16" else slow)
    row = models.row("steps", 2, "decode", 3)
    assert (row.ours, row.peers, row.ratio) == ([1, 1], [1, 1], 1)
    assert row.peer == "transformers' forward, bfloat16"


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # which the compiler itself uses
def test_a_compiled_step_is_compiled_once_and_finds_the_same(tmp_path: Path, capsys):
    shape = replace(TINY, name="tinier", num_layers=2, num_shared=1, dtype="bfloat16")
    directory = checkpoints.at(tmp_path, shape)
    ours = compute.Ours(directory, shape, recorder=compiled.CompileRecorder)
    assert [ours.decode().tokens, ours.decode().tokens] == 2 * [
        compute.Ours(directory, shape).decode().tokens
    ]
    assert capsys.readouterr().out.count("decode step recorded") == 1
    assert not ours.gave_up


def test_what_is_not_replayed_is_not_measured(directory: Path):
    def no_compiler(_compute):
        raise RuntimeError("there is none")

    models = compute.Models(compute.Ours(directory, TINY, recorder=lambda: no_compiler))
    with pytest.raises(RuntimeError, match="steps: our decode steps were not replayed"):
        models.row("steps", 1, "decode")


def test_a_gpu_is_measured_against_reading_all_weights_once(directory: Path, monkeypatch):
    monkeypatch.setattr(gpu, "PROMPT", 32)
    rows = list(gpu.of(directory, TINY, "none", 1, compute.CPU, gpu.Rates(1e9, 1e12)))
    assert [row.unit for row in rows] == ["ms", "%", "ms", "ms", "ms", "ms", "%"]
    models = compute.Models(compute.Ours(directory, TINY))
    assert rows[1].ours[0] * rows[0].ours[0] == pytest.approx(models.ours.num_weight_bytes / 1e9 * 1e5)


def test_what_a_prompt_takes_is_counted_as_torch_counts_it(tmp_path: Path):
    shape = replace(TINY, name="not so tiny", hidden_size=128, intermediate_size=512)
    ours = compute.Ours(checkpoints.at(tmp_path, shape), shape, prompt_length=64)
    with FlopCounterMode(display=False) as counted:
        ours.prefill()
    # Which leaves out attention on a CPU, a twentieth here, and has mixing streams, as much.
    assert gpu.prefill_flops(ours.config, 64) == pytest.approx(counted.get_total_flops(), rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_said_of_one(directory: Path, capsys):
    assert list(gpu.rows(directory.parent, 1)) == []
    assert "torch finds none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(directory: Path):
    with servers.ours(directory) as server:
        yield server


def test_a_question_is_answered_with_as_many_tokens_as_were_asked_for(server: Server):
    answer = load.ask(server, load.question(1, num_words=9), num_tokens=5)
    assert answer.num_tokens == 5
    assert answer.num_prompt_tokens > 9
    assert len(answer.gaps_s) < 5
    assert 0 < answer.ttft_s < server.started_s


def test_a_crowd_is_at_work_together_while_its_health_is_watched(server: Server):
    questions = [load.question(seed, num_words=9) for seed in range(3)]
    crowd = load.crowd(server, questions, num_tokens=40)
    assert [answer.num_tokens for answer in crowd.answers] == [40, 40, 40]
    longest = max(answer.ttft_s + sum(answer.gaps_s) for answer in crowd.answers)
    assert longest <= crowd.seconds < sum(answer.ttft_s + sum(answer.gaps_s) for answer in crowd.answers)
    assert crowd.tokens_per_s == 120 / crowd.seconds
    assert len(crowd.health_s) > 1
