"""What replays decode steps: the rest of tests/model runs over it, as the engine "static"."""

import pytest
import torch

from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.model import native, static_decoder
from gemma3n_appliance.model.parts import Parts
from gemma3n_appliance.model.static_decoder import StaticDecoder

from .conftest import Probe

CPU = torch.device("cpu")


class Recorder:
    """Records as a GPU does, as far as that can be seen: what was recorded always gives the same tensors."""

    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def __call__(self, compute):
        self.num_recorded += 1
        results = compute()

        def replay():
            self.num_replayed += 1
            for result, now in zip(results, compute(), strict=True):
                result.copy_(now)
            return results

        return replay


@pytest.fixture
def decoder(text_model, text_dir):
    return native.load(text_dir, text_model.config, torch.float32, CPU).decoder


@pytest.fixture
def run(decoder):
    """Generates from ragged prompts at once, by what records so; returns tokens by slot, and the decoder."""

    def with_record(record, lengths=(5, 40, 9), num_steps=12):
        static = StaticDecoder(decoder, lambda: record) if record else decoder
        probe = Probe(Parts(static, None, 0), num_slots=5)
        prompts = [[7 + length, *range(3, length)] for length in lengths]
        tokens = [[probe.start(slot, prompt)] for slot, prompt in enumerate(prompts)]
        for _ in range(num_steps):
            for slot, token in enumerate(probe.runner.decode(range(len(lengths)))):
                tokens[slot].append(token)
        return tokens

    return with_record


def test_steps_of_a_few_sizes_are_recorded_once_and_replayed(run):
    recorder = Recorder()
    assert run(recorder) == run(None)
    assert recorder.num_recorded == 1
    assert recorder.num_replayed == 12


def test_a_longer_text_and_a_larger_batch_are_other_sizes(run):
    recorder = Recorder()
    # From 250 to 262 positions; the cache grows with its first request, to 512 at once.
    assert run(recorder, lengths=(250,)) == run(None, lengths=(250,))
    assert recorder.num_recorded == 2
    run(recorder, lengths=(5, 6, 7, 8))
    assert recorder.num_recorded == 3


def test_what_cannot_be_recorded_is_computed(run, capsys):
    def fail(_compute):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    assert run(fail) == run(None)
    told = capsys.readouterr().out
    assert told.count("decode steps are not replayed") == 1
    assert "operation not permitted when stream is capturing" in told


def test_what_comes_out_wrong_is_not_used(run, capsys):
    for factor in (-1, torch.nan):
        assert run(lambda compute, by=factor: lambda: [result * by for result in compute()]) == run(None)
    assert capsys.readouterr().out.count("decode steps are not replayed") == 2


def test_what_repeats_the_step_it_was_recorded_from_is_found_out(run, capsys):
    def frozen(compute):
        results = [result.clone() for result in compute()]
        return lambda: results

    assert run(frozen) == run(None)
    assert capsys.readouterr().out.count("decode steps are not replayed") == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("CUDA error: out of memory")])
def test_memory_that_runs_out_while_recording_is_no_reason_to_give_up(run, capsys, monkeypatch, error):
    monkeypatch.setattr(static_decoder, "_RECORD_AGAIN_S", 0)
    recorder, failures = Recorder(), iter([True, False])

    def short_of_memory(compute):
        if next(failures, False):
            raise error
        return recorder(compute)

    assert run(short_of_memory) == run(None)
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 11)
    assert "not replayed" not in capsys.readouterr().out


def test_where_memory_has_run_out_recording_waits(run, capsys):
    tries = []

    def short_of_memory(compute):
        tries.append(compute)
        raise torch.OutOfMemoryError

    assert run(short_of_memory) == run(None)
    assert len(tries) == 1
    assert capsys.readouterr().out.count("no memory to record decode steps") == 1


def test_a_cache_that_moves_is_recorded_anew(decoder):
    recorder, pools = Recorder(), []

    def in_a_pool():
        pools.append(recorder)
        return recorder

    probe = Probe(Parts(StaticDecoder(decoder, in_a_pool), None, 0))
    plain = Probe(Parts(decoder, None, 0))
    for num_asked in (10, 700):
        for each in (probe, plain):
            each.runner.begin([0], GenerationRequest("r", (5, 6, 7), Sampling(0.0), num_asked))
            each.runner.prefill(0, 99)
        steps = [(probe.runner.decode([0]), plain.runner.decode([0])) for _ in range(3)]
        assert all(one == other for one, other in steps)
        for each in (probe, plain):
            each.runner.release(0)
    assert recorder.num_recorded == 2
    assert len(pools) == 2  # torch refuses to record into the pool of graphs that are gone


@torch.inference_mode()
def test_the_fault_of_one_request_is_no_reason_to_give_up(decoder, prompt):
    recorder = Recorder()
    probe = Probe(Parts(StaticDecoder(decoder, lambda: recorder), None, 0))
    probe.start(0, prompt(0, 9))
    broken = [layer.clone() for layer in probe.cache.layers]
    for layer in probe.cache.layers:
        layer[0, :9] = torch.nan
    with pytest.raises(Exception, match="NaN"):
        probe.runner.decode([0])
    assert recorder.num_recorded == 0
    for layer, before in zip(probe.cache.layers, broken, strict=True):
        layer.copy_(before)
    probe.runner.decode([0])
    assert recorder.num_recorded == 1
