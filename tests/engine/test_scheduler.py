from dataclasses import replace

import pytest

from gemma3n_appliance.engine.scheduler import Scheduler
from gemma3n_appliance.engine.sequence import Sequence
from tests.fakes.runner import FakeRunner, request

MODEL = FakeRunner().loaded()


def line_up(num_slots: int, names: str) -> tuple[Scheduler, dict[str, Sequence]]:
    scheduler = Scheduler(num_slots)
    sequences = {name: Sequence(request(name.encode()), MODEL, lambda _: None) for name in names}
    for sequence in sequences.values():
        scheduler.submit(sequence)
    return scheduler, sequences


def admitted(scheduler: Scheduler) -> str:
    names = ""
    while (waiting := scheduler.next_waiting()) is not None:
        free, sequence = waiting
        scheduler.admit(free[0], sequence)
        names += sequence.request.request_id
    return names


@pytest.mark.parametrize(
    ("num_slots", "names", "expected"),
    [(2, "", ""), (2, "a", "a"), (2, "ab", "ab"), (2, "abcd", "ab"), (1, "ab", "a")],
)
def test_who_comes_first_gets_a_slot_as_long_as_there_are_any(num_slots, names, expected):
    scheduler, _ = line_up(num_slots, names)
    assert admitted(scheduler) == expected


def test_prompts_are_read_one_after_the_other_and_then_decode_together():
    scheduler, sequences = line_up(2, "ab")
    admitted(scheduler)
    assert scheduler.next_prefill() == (0, sequences["a"])
    scheduler.prefilled(0)
    assert scheduler.next_prefill() == (1, sequences["b"])
    scheduler.prefilled(1)
    assert scheduler.next_prefill() is None
    assert scheduler.decoding == {0: sequences["a"], 1: sequences["b"]}


def test_the_prompt_that_has_waited_longest_is_read_first_whatever_its_slot():
    scheduler, sequences = line_up(2, "abcd")
    admitted(scheduler)
    scheduler.prefilled(0)
    scheduler.remove(sequences["a"])
    assert admitted(scheduler) == "c"
    assert scheduler.next_prefill() == (1, sequences["b"])


def test_chunks_are_in_turns_of_the_oldest_prompt_and_of_the_shortest():
    scheduler = Scheduler(3)
    for number, num_tokens in enumerate((900, 500, 7)):
        prompt = replace(request(b"x"), token_ids=(5,) * num_tokens)
        scheduler.submit(Sequence(prompt, MODEL, lambda _: None))
        scheduler.admit(number, scheduler.next_waiting()[1])
    assert {scheduler.next_prefill()[0] for _ in range(2)} == {0, 2}
    scheduler.prefilled(2)
    assert {scheduler.next_prefill()[0] for _ in range(2)} == {0, 1}
    # What is left in the cache by others is not read.
    scheduler.prefilling[0].num_cached_tokens = 800
    assert {scheduler.next_prefill()[0] for _ in range(2)} == {0}


@pytest.mark.parametrize(
    ("name", "slot", "next_in"),
    [("a", 0, "d"), ("b", 1, "d"), ("c", None, ""), ("d", None, "")],
    ids=["decoding", "prefilling", "first in line", "last in line"],
)
def test_a_sequence_is_taken_out_wherever_it_is(name, slot, next_in):
    scheduler, sequences = line_up(2, "ab")
    admitted(scheduler)
    scheduler.prefilled(0)
    for late in "cd" if name in "cd" else "d":
        sequences[late] = Sequence(request(late.encode()), MODEL, lambda _: None)
        scheduler.submit(sequences[late])
    assert scheduler.remove(sequences[name]) == slot
    assert sequences[name] not in scheduler.sequences()
    assert scheduler.remove(sequences[name]) is None
    assert admitted(scheduler) == next_in


def test_there_is_work_as_long_as_there_is_anybody():
    scheduler, sequences = line_up(1, "ab")
    for name in "ab":
        assert scheduler.has_work
        admitted(scheduler)
        scheduler.remove(sequences[name])
    assert not scheduler.has_work


def test_who_follows_a_leader_lets_others_pass_until_its_prompt_has_been_read():
    scheduler, sequences = line_up(3, "a")
    follower = Sequence(request(b"f"), MODEL, lambda _: None, choice=1, leader=sequences["a"])
    other = Sequence(request(b"o"), MODEL, lambda _: None)
    scheduler.submit(follower)
    scheduler.submit(other)
    assert admitted(scheduler) == "ao"
    scheduler.prefilled(0)
    assert admitted(scheduler) == "f"


def test_a_leader_that_goes_unread_takes_its_followers_with_it_and_one_that_is_done_does_not():
    for is_read, expected in ((False, ""), (True, "f")):
        scheduler, sequences = line_up(1, "a")
        scheduler.submit(Sequence(request(b"f"), MODEL, lambda _: None, choice=1, leader=sequences["a"]))
        assert admitted(scheduler) == "a"
        if is_read:
            scheduler.prefilled(0)
        assert scheduler.remove(sequences["a"]) == 0
        assert admitted(scheduler) == expected
