"""What slots keep of requests that have left them, and who gets it; with models, against transformers."""

import random

import numpy as np
import pytest
import torch
from transformers import Gemma3nTextConfig

from gemma3n_appliance.engine.request import GenerationRequest, Image, Sampling
from gemma3n_appliance.engine.runner import Admission
from gemma3n_appliance.errors import EngineError
from gemma3n_appliance.model.kv_cache import KVCache
from gemma3n_appliance.model.media_cache import MediaCache
from gemma3n_appliance.model.prefix_cache import PrefixCache
from gemma3n_appliance.model.soft_tokens import SoftTokens

from . import oracle

GREEDY = Sampling(temperature=0.0)
SLOTS = (0, 1, 2)


def ids(*texts: str) -> np.ndarray:
    """A hundred ids a text, alike where the texts are."""
    return np.concatenate([np.arange(100) + 1000 * ord(text) for text in texts])


@pytest.fixture
def cache() -> KVCache:
    config = Gemma3nTextConfig(
        num_hidden_layers=2,
        num_kv_shared_layers=1,
        layer_types=["full_attention"] * 2,
        num_key_value_heads=1,
        head_dim=2,
        intermediate_size=8,
        activation_sparsity_pattern=[0.0] * 2,
    )
    cache = KVCache(config, len(SLOTS), 1000, torch.device("cpu"), torch.float32)
    cache.reserve(1000)
    return cache


class Desk:
    """Takes slots, and fills them with numbers that say whose positions they are."""

    def __init__(self, cache: KVCache) -> None:
        self.cache, self.prefixes = cache, PrefixCache(cache)

    def take(self, prompt: np.ndarray, free: tuple[int, ...] = SLOTS) -> tuple[int, int]:
        slot, num_shared = self.prefixes.take(free, prompt)
        held = self.cache.layers[0][slot, :, 0, 0, 0]
        assert held[:num_shared].tolist() == prompt[:num_shared].tolist()
        held[: len(prompt)] = torch.from_numpy(prompt)
        self.cache.lengths[slot] = len(prompt)
        return slot, num_shared


@pytest.fixture
def desk(cache) -> Desk:
    return Desk(cache)


def test_the_next_turn_goes_on_where_the_last_one_ended(desk):
    assert desk.take(ids("a", "b")) == (0, 0)
    assert desk.take(ids("x")) == (1, 0)
    assert desk.take(ids("a", "b", "c")) == (0, 200)
    assert desk.take(ids("a", "b", "c", "d")) == (0, 300)


def test_a_token_is_left_to_say_what_comes_next(desk):
    desk.take(ids("a"))
    assert desk.take(ids("a")) == (0, 99)


def test_what_a_request_has_generated_counts_too(desk):
    desk.take(ids("a"))
    for token_id in range(50):
        desk.prefixes.append(0, token_id)
        desk.cache.lengths[0] += 1
    assert desk.prefixes.take(SLOTS, np.concatenate([ids("a"), np.arange(60)])) == (0, 150)


def test_a_conversation_that_only_begins_alike_leaves_the_other_where_it_is(desk):
    desk.take(ids("s", "a", "b"))
    assert desk.take(ids("s", "x")) == (1, 100)
    assert desk.take(ids("s", "a", "b", "c")) == (0, 300)


def test_what_another_request_is_busy_with_is_copied(desk):
    desk.take(ids("s", "a"))
    assert desk.take(ids("s", "a", "b"), free=(1, 2)) == (1, 200)


def test_of_two_slots_with_as_much_the_free_one_is_taken(desk):
    desk.take(ids("s", "a"))
    desk.take(ids("s", "a"), free=(1,))
    assert desk.take(ids("s", "a", "b"), free=(1, 2)) == (1, 200)


def test_a_few_tokens_alike_are_no_reason_to_copy(desk):
    desk.take(ids("a"))
    alike = np.concatenate([ids("a")[:15], ids("b")])
    assert desk.take(alike) == (1, 0)


def test_what_was_used_longest_ago_goes_first(desk):
    for text in "abc":
        desk.take(ids(text))
    desk.take(ids("a", "a"))
    assert desk.take(ids("d")) == (1, 0)
    assert desk.take(ids("e")) == (2, 0)
    assert desk.take(ids("f")) == (0, 0)


def test_the_only_free_slot_is_taken_whatever_is_in_it(desk):
    desk.take(ids("s", "a", "b"))
    assert desk.take(ids("s", "x"), free=(0,)) == (0, 100)


def reference(model, token_ids):
    return oracle.logits(model, token_ids)[-1]


def begin(probe, free, token_ids) -> Admission:
    return probe.runner.begin(free, GenerationRequest("r", tuple(token_ids), GREEDY, 50))


def prefill(probe, slot, chunk=1024) -> int:
    while (token := probe.runner.prefill(slot, chunk)) is None:
        pass
    return token


@pytest.mark.parametrize("num_alike", [16, 17, 40, 59, 60])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_logits_after_a_prefix_that_was_kept_are_the_reference_s(
    probe, text_model, prompt, assert_close, num_alike, chunk
):
    first = prompt(1, 60)
    probe.start(0, first)
    probe.runner.release(0)
    second = first[:num_alike] + [(token_id + 1) % 300 for token_id in prompt(2, 30)]
    assert begin(probe, [0], second) == Admission(0, num_alike)
    second.append(prefill(probe, 0, chunk))
    assert_close(probe.logits[0], reference(text_model, second[:-1]))
    probe.runner.decode([0])
    assert_close(probe.logits[0], reference(text_model, second))


def test_the_second_turn_reads_only_what_is_new(probe, text_model, prompt, assert_close):
    turn = prompt(3, 40)
    turn.append(probe.start(1, turn))
    for _ in range(30):
        turn += probe.runner.decode([1])
    probe.runner.release(1)
    turn += prompt(4, 9)
    assert begin(probe, [0, 1, 2, 3], turn) == Admission(1, 70)  # the last token was never fed
    prefill(probe, 1)
    assert_close(probe.logits[0], reference(text_model, turn))


def test_a_prefix_is_copied_from_a_slot_that_goes_on(probe, text_model, prompt, assert_close):
    running = prompt(5, 50)
    running.append(probe.start(2, running))
    running += probe.runner.decode([2])
    alike = [*running[:45], (running[45] + 1) % 300, *prompt(6, 8)]
    assert begin(probe, [0, 1, 3], alike) == Admission(0, 45)
    alike.append(prefill(probe, 0, 5))
    assert_close(probe.logits[0], reference(text_model, alike[:-1]))
    probe.runner.decode([2, 0])
    assert_close(probe.logits[0], reference(text_model, running))
    assert_close(probe.logits[1], reference(text_model, alike))


def test_a_prompt_that_was_given_up_halfway_is_gone_on_with(probe, text_model, prompt, assert_close):
    token_ids = prompt(7, 60)
    begin(probe, [0], token_ids)
    assert probe.runner.prefill(0, 24) is None
    probe.runner.release(0)
    assert begin(probe, [0], token_ids) == Admission(0, 24)
    prefill(probe, 0)
    assert_close(probe.logits[0], reference(text_model, token_ids))


@pytest.mark.parametrize("fails_in", ["prefill", "decode"])
def test_nothing_is_kept_of_a_request_that_failed(
    probe, text_model, prompt, assert_close, monkeypatch, fails_in
):
    token_ids = prompt(8, 60)
    begin(probe, [0], token_ids)
    if fails_in == "decode":
        prefill(probe, 0)
    with monkeypatch.context() as patch:
        patch.setattr(probe.runner, "_capped", lambda _: (_ for _ in ()).throw(EngineError("NaN")))
        with pytest.raises(EngineError):
            probe.runner.decode([0]) if fails_in == "decode" else probe.runner.prefill(0, 1024)
    probe.runner.release(0)
    assert begin(probe, [0], token_ids) == Admission(0, 0)
    prefill(probe, 0)
    assert_close(probe.logits[0], reference(text_model, token_ids))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_and_goes_logits_are_the_reference_s(probe, text_model, assert_close, seed):
    chance = random.Random(seed)
    texts: dict[int, list[int]] = {}
    num_cached = 0
    for _ in range(40):
        free = [slot for slot in range(4) if slot not in texts]
        if free and chance.random() < 0.4:
            # Of two ids, so that many begin alike.
            token_ids = [
                chance.choice((5, 9)) if i % 20 == 0 else 100 + i for i in range(chance.randint(1, 90))
            ]
            admission = begin(probe, free, token_ids)
            num_cached += admission.num_cached_tokens
            chunk = chance.choice((3, 16, 100))
            if chance.random() < 0.2:
                probe.runner.prefill(admission.slot, chunk)
                probe.runner.release(admission.slot)
                continue
            texts[admission.slot] = token_ids
            token = prefill(probe, admission.slot, chunk)
            assert_close(probe.logits[0], reference(text_model, token_ids))
            token_ids.append(token)
        elif texts:
            slots = chance.sample(sorted(texts), chance.randint(1, len(texts)))
            for slot, token, logits in zip(slots, probe.runner.decode(slots), probe.logits, strict=True):
                assert_close(logits, reference(text_model, texts[slot]))
                texts[slot].append(token)
            if chance.random() < 0.3:
                slot = slots[0]
                probe.runner.release(slot)
                del texts[slot]
    assert num_cached > 0


def white(width: int, height: int) -> SoftTokens:
    return SoftTokens(Image(width, height, b"\xff" * (3 * width * height)), [])


class CountingEncoder:
    """Encodes to a kilobyte, and counts."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, _media: object) -> torch.Tensor:
        self.num_encoded += 1
        return torch.zeros(1, 256)


def test_media_are_encoded_once_as_long_as_there_is_room_for_them():
    encoder = CountingEncoder()
    media = MediaCache(encoder, max_bytes=2048)
    for width, num_encoded in [(1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)]:
        media.features(white(width, 6 // width))
        assert encoder.num_encoded == num_encoded
