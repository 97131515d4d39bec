"""Both engines in slots against transformers' own forward and generate, float32 on the CPU."""

import dataclasses
import re
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import suppress

import pytest
import torch

from gemma3n_appliance.engine.grammar import Grammars, GrammarSource, wait_for_any
from gemma3n_appliance.engine.request import GenerationRequest, Sampling
from gemma3n_appliance.errors import (
    ContextLengthError,
    EngineError,
    GrammarError,
    InsufficientMemoryError,
    InvalidRequestError,
)
from gemma3n_appliance.model import runner

from . import oracle

GREEDY = Sampling(temperature=0.0)


def test_a_whole_prefill_gives_the_reference_logits(probe, text_model, prompt, assert_close):
    token_ids = prompt(0, 50)
    probe.start(0, token_ids)
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 49, 50])
def test_the_size_of_prefill_chunks_makes_no_difference(probe, text_model, prompt, assert_close, chunk):
    token_ids = prompt(1, 50)
    probe.start(2, token_ids, chunk)
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_every_decode_step_of_a_ragged_batch_gives_the_reference_logits(
    probe, text_model, prompt, assert_close
):
    texts = {3: prompt(2, 33), 0: prompt(3, 4), 2: prompt(4, 61)}
    for slot, token_ids in texts.items():
        token_ids.append(probe.start(slot, token_ids, chunk=20))
    found: dict[int, list[torch.Tensor]] = {slot: [] for slot in texts}
    for _ in range(20):
        slots = list(texts)
        new = probe.runner.decode(slots)
        for slot, token, logits in zip(slots, new, probe.logits, strict=True):
            found[slot].append(logits)
            texts[slot].append(token)
    for slot, token_ids in texts.items():
        for logits, wanted in zip(found[slot], oracle.logits(text_model, token_ids)[-21:-1], strict=True):
            assert_close(logits, wanted)


def test_requests_may_join_and_leave_a_batch_at_any_step(probe, text_model, prompt, assert_close):
    early, late = prompt(5, 12), prompt(6, 25)
    early.append(probe.start(1, early))
    early += probe.runner.decode([1])
    late.append(probe.start(0, late))
    for slots in ([1, 0], [0], [0, 1]):
        new = dict(zip(slots, probe.runner.decode(slots), strict=True))
        early += [new[1]] if 1 in new else []
        late += [new[0]]
    probe.runner.release(1)
    late += probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, late[:-1])[-1])
    probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, late)[-1])


def test_a_slot_remembers_nothing_of_its_last_tenant(probe, text_model, prompt, assert_close):
    probe.start(0, prompt(7, 80))
    probe.runner.decode([0])
    probe.runner.release(0)
    token_ids = prompt(8, 9)
    token_ids.append(probe.start(0, token_ids))
    probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_a_slot_released_in_mid_prefill_can_be_used_again(probe, text_model, prompt, assert_close):
    probe.runner.begin([0], GenerationRequest("r", tuple(prompt(9, 40)), GREEDY, 10))
    assert probe.runner.prefill(0, 16) is None
    probe.runner.release(0)
    token_ids = prompt(10, 30)
    probe.start(0, token_ids)
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_the_cache_grows_under_running_requests_without_changing_them(
    probe, text_model, prompt, assert_close
):
    token_ids = prompt(11, 20)
    token_ids.append(probe.start(0, token_ids))
    probe.start(1, prompt(12, 600))
    probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_a_completion_finds_room_that_its_prompt_did_not_need(probe, text_model, prompt, assert_close):
    token_ids = prompt(25, 250)
    token_ids.append(probe.start(0, token_ids))
    for _ in range(12):
        token_ids += probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids[:-1])[-1])


def test_greedy_tokens_are_those_of_generate(probe, text_model, prompt):
    texts = {1: prompt(13, 40), 3: prompt(14, 7), 2: prompt(15, 90)}
    produced = {slot: [probe.start(slot, token_ids)] for slot, token_ids in texts.items()}
    for _ in range(59):
        for slot, token in zip(texts, probe.runner.decode(list(texts)), strict=True):
            produced[slot].append(token)
    for slot, token_ids in texts.items():
        assert produced[slot] == oracle.generated(text_model, token_ids, max_new_tokens=60)


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(probe, prompt):
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=7)
    token_ids = prompt(16, 30)
    alone = probe.generate(0, token_ids, 40, sampling)
    probe.start(0, prompt(17, 50), sampling=Sampling(temperature=1.3, top_k=5, seed=1))
    probe.start(1, prompt(18, 5))
    batched = [probe.start(3, token_ids, chunk=11, sampling=sampling)]
    while len(batched) < 40:
        batched.append(probe.runner.decode([0, 3, 1])[1])
    assert batched == alone
    assert len(set(alone)) > 3


def test_without_a_seed_tokens_differ_from_run_to_run(probe, prompt):
    sampling = Sampling(temperature=2.0)
    assert probe.generate(0, prompt(19, 5), 40, sampling) != probe.generate(0, prompt(19, 5), 40, sampling)


@pytest.mark.parametrize("token_ids", [(), (-1,), (1, 300)])
def test_a_prompt_with_ids_out_of_the_vocabulary_is_refused(probe, token_ids):
    with pytest.raises(InvalidRequestError, match="0 to 299"):
        probe.runner.begin([0], GenerationRequest("r", token_ids, GREEDY, 1))


def test_a_request_beyond_the_context_is_refused(probe):
    with pytest.raises(ContextLengthError, match="1025 tokens"):
        probe.runner.begin([0], GenerationRequest("r", (1,) * 1000, GREEDY, 25))


def scaled(embed, factor):
    """Returns a function that embeds wrongly."""

    def wrongly(token_ids):
        embeddings = embed(token_ids)
        return dataclasses.replace(embeddings, hidden=embeddings.hidden * factor)

    return wrongly


def test_numbers_that_are_none_end_one_request_and_leave_no_trace(
    probe, text_model, prompt, assert_close, monkeypatch
):
    other = prompt(20, 30)
    other.append(probe.start(1, other))
    with monkeypatch.context() as patch:
        patch.setattr(probe.decoder, "embed", scaled(probe.decoder.embed, float("nan")))
        with pytest.raises(EngineError, match="NaN"):
            probe.start(0, prompt(21, 60))
    probe.runner.release(0)
    token_ids = prompt(22, 5)
    token_ids.append(probe.start(0, token_ids))
    probe.runner.decode([0, 1])
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])
    assert_close(probe.logits[1], oracle.logits(text_model, other)[-1])


def test_a_step_with_numbers_that_are_none_can_be_tried_again_slot_by_slot(
    probe, text_model, prompt, assert_close, monkeypatch
):
    texts = [prompt(25, 20), prompt(26, 9)]
    for slot, token_ids in enumerate(texts):
        token_ids.append(probe.start(slot, token_ids))
    only_the_second = torch.tensor([1.0, float("nan")], device=probe.decoder.device)[:, None, None]
    with monkeypatch.context() as patch:
        embed = scaled(probe.decoder.embed, only_the_second)

        def decode(token_ids, step):
            embeddings = embed([[token_id] for token_id in token_ids])
            return probe.decoder.logits(probe.decoder.forward(embeddings, step))

        patch.setattr(probe.decoder, "decode", decode)
        with pytest.raises(EngineError, match="NaN"):
            probe.runner.decode([0, 1])
    for slot, token_ids in enumerate(texts):
        probe.runner.decode([slot])
        assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_a_step_that_ran_out_of_memory_can_be_tried_again_with_fewer_slots(
    probe, text_model, prompt, assert_close, monkeypatch
):
    texts = [prompt(23, 30), prompt(24, 12)]
    for slot, token_ids in enumerate(texts):
        token_ids.append(probe.start(slot, token_ids))

    alive = []

    def exhausted(*_):
        large = torch.empty(1000)
        alive.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(probe.decoder, "decode", exhausted)
        with pytest.raises(InsufficientMemoryError) as refused:
            probe.runner.decode([0, 1])
    assert refused.value.__cause__ is not None
    assert alive[0]() is None, "the error keeps memory that the next try needs"
    for slot, token_ids in enumerate(texts):
        probe.runner.decode([slot])
        assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_logprobs_are_the_reference_s_whatever_changes_the_choice(probe, text_model, prompt):
    token_ids = prompt(30, 40)
    rules = Sampling(0.7, seed=3, frequency_penalty=1.0, repetition_penalty=1.3, logit_bias=((5, 4.0),))
    asks = GenerationRequest("r", tuple(token_ids), rules, 20, num_top_logprobs=4)
    silent = GenerationRequest("r", tuple(prompt(31, 7)), GREEDY, 20)
    for slot, request in ((1, asks), (0, silent)):
        probe.runner.begin([slot], request)
        chosen = probe.runner.prefill(slot, 1024)
        token_ids += [chosen] if slot else []
    for _ in range(5):
        wanted = oracle.logits(text_model, token_ids[:-1])[-1].log_softmax(-1)
        told = probe.runner.logprobs(1)
        assert told.chosen == pytest.approx(wanted[token_ids[-1]].item(), abs=1e-3)
        best = wanted.topk(4)
        assert [token_id for token_id, _ in told.top] == best.indices.tolist()
        assert [logprob for _, logprob in told.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert probe.runner.logprobs(0) is None
        token_ids.append(probe.runner.decode([0, 1])[1])


@pytest.mark.parametrize(
    ("rules", "options"),
    [
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"logit_bias": ((7, 3.0), (9, -50.0))}, {"sequence_bias": [[[7], 3.0], [[9], -50.0]]}),
    ],
)
def test_adjusted_logits_choose_what_transformers_would(probe, text_model, prompt, rules, options):
    token_ids = prompt(32, 30)
    ours = probe.generate(0, token_ids, 20, Sampling(0.0, **rules))
    assert ours == oracle.generated(text_model, token_ids, max_new_tokens=20, **options)


def test_penalties_add_to_what_an_answer_is_made_of_and_rewards_take_away(probe, prompt):
    def num_different(slot: int, **rules: float) -> int:
        return len({*probe.generate(slot, prompt(33, 20), 60, Sampling(0.0, **rules))})

    plain = num_different(0)
    assert num_different(1, presence_penalty=2.0, frequency_penalty=2.0) > plain
    assert num_different(2, frequency_penalty=-2.0) < plain


@pytest.mark.parametrize("token_id", [-1, 300])
def test_a_bias_for_a_token_that_is_none_is_refused(probe, prompt, token_id):
    rules = Sampling(0.0, logit_bias=((token_id, 1.0),))
    with pytest.raises(InvalidRequestError, match="ids go from 0 to 299"):
        probe.runner.begin([0], GenerationRequest("r", tuple(prompt(34, 5)), rules, 10))


def test_seeds_of_choices_are_the_seeds_that_follow():
    request = GenerationRequest("r", (1,), Sampling(1.0, seed=5), 10, num_choices=3)
    assert [request.for_choice(choice).sampling.seed for choice in range(3)] == [5, 6, 7]
    assert GenerationRequest("r", (1,), Sampling(1.0), 10).for_choice(2).sampling.seed is None


BYTES = [bytes([i % 256]) for i in range(300)]
GRAMMARS = Grammars(BYTES, {299: "<eos>"}, frozenset({299}), lambda text: [*text.encode()])


def begin_with(probe, slot, token_ids, grammar, sampling=GREEDY):
    probe.runner.begin([slot], GenerationRequest("r", tuple(token_ids), sampling, 50, grammar=grammar))
    return probe.runner.prefill(slot, 1024)


def test_a_grammar_chooses_the_best_of_what_it_allows(probe, text_model, prompt, assert_close):
    free, bound = prompt(50, 20), prompt(51, 30)
    free.append(probe.start(0, free))
    bound.append(begin_with(probe, 1, bound, GRAMMARS.compile(GrammarSource("regex", "[0-9]{30}"))))
    digits = torch.arange(ord("0"), ord("9") + 1)
    for _ in range(10):
        tokens = dict(zip([0, 1], probe.runner.decode([0, 1]), strict=True))
        while tokens[1] is None:  # nobody knows how long a grammar thinks
            (tokens[1],) = probe.runner.decode([1])
        free.append(tokens[0])
        bound.append(tokens[1])
    assert free[-10:] == oracle.logits(text_model, free)[-11:-1].argmax(dim=-1).tolist()
    best = oracle.logits(text_model, bound)[-11:-1, digits].argmax(dim=-1)
    assert bound[-10:] == digits[best].tolist()


class Slow:
    """A grammar that thinks for as long as it is told to."""

    def __init__(self, inner):
        self.inner, self.is_thinking = inner.begin(), False

    def begin(self):
        return self

    @property
    def coming(self):
        return Future() if self.is_thinking else self.inner.coming

    def allowed(self):
        if self.is_thinking:
            return None
        wait_for_any([self.inner], 20)
        return self.inner.allowed()

    def accept(self, token_id):
        self.inner.accept(token_id)


def test_a_grammar_that_thinks_holds_up_nobody_and_changes_nothing(probe, text_model, prompt, assert_close):
    regex = GrammarSource("regex", "[a-z]{30}")
    texts = {0: prompt(52, 20), 1: prompt(53, 30)}
    expected = [begin_with(probe, 2, texts[1], GRAMMARS.compile(regex))]
    while len(expected) < 8:
        expected += [token for token in probe.runner.decode([2]) if token is not None]
    probe.runner.release(2)

    slow = Slow(GRAMMARS.compile(regex))
    texts[0].append(probe.start(0, texts[0]))
    said = [begin_with(probe, 1, texts[1], slow)]
    for step in range(20):
        slow.is_thinking = step % 3 != 2
        free, bound = probe.runner.decode([0, 1])
        assert (bound is None) == slow.is_thinking
        assert_close(probe.logits[0], oracle.logits(text_model, texts[0])[-1])
        texts[0].append(free)
        said += [] if bound is None else [bound]
    assert said == expected[: len(said)]
    assert len(said) == 7

    slow.is_thinking = True
    assert probe.runner.decode([1]) == [None]
    assert probe.runner.decode([1]) == [None]
    slow.is_thinking = False
    assert probe.runner.decode([1]) == [expected[7]]


def test_a_step_that_fails_as_it_chooses_can_be_tried_again(probe, text_model, prompt, assert_close):
    slow = Slow(GRAMMARS.compile(GrammarSource("regex", "[a-z]{30}")))
    free, bound = prompt(58, 12), prompt(59, 21)
    free.append(probe.start(0, free))
    bound.append(begin_with(probe, 1, bound, slow))
    slow.is_thinking = True
    free.append(probe.runner.decode([0, 1])[0])
    choose = probe.runner._sample

    def exhausted(logits, choosers):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for slow.is_thinking in (True, False):
        probe.runner._sample = exhausted
        with pytest.raises(InsufficientMemoryError):
            probe.runner.decode([0, 1])
        probe.runner._sample = choose
    tokens = probe.runner.decode([0, 1])
    for logits, token_ids in zip(probe.logits, (free, bound), strict=True):
        assert_close(logits, oracle.logits(text_model, token_ids)[-1])
    free.append(tokens[0])
    bound.append(tokens[1])
    slow.is_thinking = True
    assert probe.runner.decode([0, 1])[1] is None
    assert_close(probe.logits[0], oracle.logits(text_model, free)[-1])


def test_where_all_wait_the_first_grammar_that_has_thought_goes_on(probe, prompt, monkeypatch):
    monkeypatch.setattr(runner, "_MASK_WAIT_S", 60)
    guides = [Slow(GRAMMARS.compile(GrammarSource("regex", "[a-z]{30}"))) for _ in range(2)]
    for slot, guide in enumerate(guides):
        begin_with(probe, slot, prompt(60 + slot, 9), guide)
        guide.is_thinking = True
    began_s = time.monotonic()
    thought = Future()
    monkeypatch.setattr(Slow, "coming", property(lambda self: thought if self is guides[1] else Future()))
    ends = threading.Timer(0.2, lambda: (setattr(guides[1], "is_thinking", False), thought.set_result(b"")))
    ends.start()
    tokens = probe.runner.decode([0, 1])
    assert tokens[0] is None
    assert tokens[1] is not None
    assert time.monotonic() - began_s < 30


def test_nobody_waits_for_a_grammar_while_there_is_a_prompt_to_read(probe, prompt, monkeypatch):
    monkeypatch.setattr(runner, "_MASK_WAIT_S", 60)
    slow = Slow(GRAMMARS.compile(GrammarSource("regex", "[a-z]{30}")))
    begin_with(probe, 0, prompt(62, 9), slow)
    probe.runner.begin([1], GenerationRequest("r", tuple(prompt(63, 9)), GREEDY, 5))
    slow.is_thinking = True
    began_s = time.monotonic()
    assert probe.runner.decode([0]) == [None]
    assert time.monotonic() - began_s < 30


def test_a_grammar_that_gives_up_ends_its_own_request_alone(probe, text_model, prompt, assert_close):
    token_ids = prompt(54, 20)
    token_ids.append(probe.start(0, token_ids))
    explosive = GRAMMARS.compile(GrammarSource("regex", "(([a-z]{1,1000}){1,1000}){1,1000}"))
    begin_with(probe, 1, prompt(55, 9), explosive)
    with suppress(GrammarError):
        for _ in range(100):
            probe.runner.decode([1])
    with pytest.raises(GrammarError, match="too much"):
        probe.runner.decode([0, 1])
    probe.runner.release(1)
    probe.runner.decode([0])
    assert_close(probe.logits[0], oracle.logits(text_model, token_ids)[-1])


def test_logprobs_are_the_model_s_own_whatever_a_grammar_rules_out(probe, text_model, prompt):
    token_ids = prompt(56, 12)
    grammar = GRAMMARS.compile(GrammarSource("regex", "x"))
    request = GenerationRequest("r", tuple(token_ids), GREEDY, 5, num_top_logprobs=3, grammar=grammar)
    probe.runner.begin([0], request)
    assert probe.runner.prefill(0, 100) == ord("x")
    scores = oracle.logits(text_model, token_ids)[-1].log_softmax(-1)
    told = probe.runner.logprobs(0)
    assert told.chosen == pytest.approx(scores[ord("x")].item(), abs=1e-4)
    assert [token for token, _ in told.top] == scores.topk(3).indices.tolist()


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_whatever_is_drawn_keeps_to_the_grammar(probe, prompt, temperature):
    grammar = GRAMMARS.compile(GrammarSource("regex", "[0-9]{3}-[a-z]{4}"))
    for seed in range(6):
        token = begin_with(probe, 0, prompt(57, 9), grammar, Sampling(temperature, seed=seed))
        said = bytearray()
        while token != 299:
            said += bytes([] if token is None else [token])
            (token,) = probe.runner.decode([0])
        probe.runner.release(0)
        assert re.fullmatch(rb"[0-9]{3}-[a-z]{4}", said)
