"""The engine as the HTTP side uses it, over a runner that the tests hold."""

import asyncio

import pytest

from gemma3n_appliance.engine.engine import EngineState
from gemma3n_appliance.engine.events import Finished, Started, TextDelta
from gemma3n_appliance.errors import ContextLengthError, EngineError, OverloadedError
from tests.fakes.runner import FakeRunner, request

from .conftest import Client, collect, started, until


def test_an_answer_comes_as_text():
    async def scene():
        async with started(FakeRunner({b"Hi": "Grüß dich.".encode()})) as engine:
            assert await Client(engine, b"Hi").text() == "Grüß dich."

    asyncio.run(scene())


def test_what_the_runner_had_of_a_prompt_is_told():
    async def scene():
        async with started(FakeRunner(num_cached_tokens=1)) as engine:
            return [event async for event in engine.generate(request(b"Hi"))]

    assert asyncio.run(scene())[0] == Started(2, 1)


def test_two_requests_decode_in_one_batch_and_a_third_waits_for_a_slot():
    async def scene():
        runner = FakeRunner(num_slots=2)
        async with started(runner) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b", b"c")]
            assert (engine.num_slots, engine.num_running, engine.num_waiting) == (2, 2, 1)
            runner.open_gates()
            assert [await client.text() for client in clients] == ["Hello."] * 3
            assert (engine.num_running, engine.num_waiting) == (0, 0)
        return runner

    runner = asyncio.run(scene())
    assert ("decode", 0, 1) in runner.calls
    third = [index for index, call in enumerate(runner.calls) if call[0] == "begin"][2]
    assert any(call[0] == "release" for call in runner.calls[:third])
    assert not runner.busy_slots


def test_who_comes_first_is_served_first():
    async def scene():
        runner = FakeRunner(num_slots=1)
        order: list[bytes] = []
        async with started(runner) as engine:

            async def ask(prompt: bytes) -> None:
                await Client(engine, prompt).text()
                order.append(prompt)

            runner.gates["begin"].close()
            tasks = []
            for prompt in (b"c", b"a", b"d", b"b"):
                tasks.append(asyncio.create_task(ask(prompt)))
                await asyncio.sleep(0)
            runner.open_gates()
            await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scene()) == [b"c", b"a", b"d", b"b"]


def test_a_long_prompt_is_read_in_chunks_between_the_steps_of_a_running_stream():
    async def scene():
        runner = FakeRunner({b"first": b"123456789"})
        async with started(runner, prefill_chunk=4) as engine:
            runner.gates["decode"].close()
            first = await Client.asking(engine, b"first")
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            num_calls = len(runner.calls)
            second = await Client.asking(engine, b"0123456789")
            runner.open_gates()
            assert (await first.text(), await second.text()) == ("123456789", "Hello.")
        return runner.calls[num_calls : num_calls + 7]

    assert asyncio.run(scene()) == [
        ("begin", 1),
        ("prefill", 1, 4),
        ("decode", 0),
        ("prefill", 1, 4),
        ("decode", 0),
        ("prefill", 1, 2),
        ("decode", 0, 1),
    ]


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_who_hangs_up_frees_the_slot_within_a_step(stage):
    async def scene():
        runner = FakeRunner(num_slots=1, answer=b"An endless answer.")
        async with started(runner, prefill_chunk=1) as engine:
            runner.gates[stage].close()
            client = await Client.asking(engine, b"Hi there")
            await asyncio.to_thread(runner.gates[stage].wait_for_arrival)
            await client.hang_up()
            assert engine.num_running == 0
            num_calls = len(runner.calls)
            next_client = await Client.asking(engine, b"Hi")
            runner.open_gates()
            assert await next_client.text() == "An endless answer."
        return runner.calls[num_calls : num_calls + 2]

    assert asyncio.run(scene()) == [("release", 0), ("begin", 0)]


def test_who_hangs_up_in_line_is_never_begun():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            runner.gates["decode"].close()
            clients = [await Client.asking(engine, prompt) for prompt in (b"a", b"b", b"c")]
            await clients[1].hang_up()
            assert engine.num_waiting == 1
            runner.open_gates()
            assert [await clients[0].text(), await clients[2].text()] == ["Hello."] * 2
        return [call[0] for call in runner.calls]

    assert asyncio.run(scene()).count("begin") == 2


def test_leaving_the_iterator_ends_the_request():
    async def scene():
        runner = FakeRunner(answer=b"An endless answer.")
        async with started(runner) as engine:
            events = engine.generate(request(b"Hi"))
            await anext(events)
            await events.aclose()
            assert engine.num_running == 0
        return runner

    assert not asyncio.run(scene()).busy_slots


def test_who_does_not_read_holds_no_slot_and_no_place_in_the_queue():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner, max_queue=0) as engine:
            slow_reader = engine.generate(request(b"slow"))
            await anext(slow_reader)
            await until(lambda: engine.num_running == 0)
            assert await Client(engine, b"Hi").text() == "Hello."
            assert len([event async for event in slow_reader]) == len("Hello.") + 1

    asyncio.run(scene())


@pytest.mark.parametrize("max_queue", [0, 2])
def test_a_full_queue_refuses_before_anything_is_said_and_hurts_nobody(max_queue):
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner, max_queue=max_queue) as engine:
            runner.gates["begin"].close()
            clients = [await Client.asking(engine, b"Hi") for _ in range(1 + max_queue)]
            with pytest.raises(OverloadedError) as caught:
                await anext(engine.generate(request(b"Hi")))
            # Nobody has finished yet, so the first guess of 5 s a request counts.
            assert caught.value.retry_after_s == 5 * (max_queue + 1)
            assert engine.num_waiting == max_queue
            runner.open_gates()
            assert [await client.text() for client in clients] == ["Hello."] * len(clients)
            assert await Client(engine, b"Hi").text() == "Hello."

    asyncio.run(scene())


def test_the_wait_is_learnt_from_requests_that_have_finished():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner, max_queue=0) as engine:
            await Client(engine, b"quick").text()
            runner.gates["begin"].close()
            client = await Client.asking(engine, b"Hi")
            await asyncio.to_thread(runner.gates["begin"].wait_for_arrival)
            with pytest.raises(OverloadedError) as caught:
                await anext(engine.generate(request(b"Hi")))
            assert caught.value.retry_after_s < 5
            runner.open_gates()
            await client.text()

    asyncio.run(scene())


@pytest.mark.parametrize(("max_tokens", "fits"), [(8, True), (9, False)])
def test_prompt_and_answer_must_fit_the_context(max_tokens, fits):
    async def scene():
        async with started(FakeRunner(max_context=10)) as engine:
            if fits:
                assert await Client(engine, b"Hi", max_tokens=max_tokens).text() == "Hello."
                return
            with pytest.raises(ContextLengthError, match=r"2 prompt tokens and 9 .* 10 tokens"):
                await anext(engine.generate(request(b"Hi", max_tokens)))
            assert engine.num_running == 0

    asyncio.run(scene())


def test_an_idle_engine_is_not_stalled_and_a_held_one_is_until_it_counts_as_stuck():
    async def scene():
        runner = FakeRunner()
        async with started(runner, step_limit_s=1) as engine:
            assert engine.state is EngineState.READY
            runner.gates["decode"].close()
            client = await Client.asking(engine, b"Hi")
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            await client.hang_up()  # nobody waits for it any more, and still it is stuck
            assert engine.state is EngineState.READY
            await until(lambda: engine.state is EngineState.STUCK)
            runner.open_gates()
            await until(lambda: engine.state is EngineState.READY)

    asyncio.run(scene())


def test_choices_decode_together_once_the_first_has_read_the_prompt():
    async def scene():
        runner = FakeRunner(num_slots=3)
        async with started(runner, prefill_chunk=1) as engine:
            events = [event async for event in engine.generate(request(b"Hi", num_choices=3))]
            assert (engine.num_running, engine.num_waiting) == (0, 0)
        return runner, events

    runner, events = asyncio.run(scene())
    assert [type(event) for event in events if event.choice == 1][:2] == [Started, TextDelta]
    texts = ["".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == i) for i in range(3)]
    assert texts == ["Hello."] * 3
    assert [type(event) for event in events].count(Finished) == 3
    first_read = runner.calls.index(("prefill", 0, 1), runner.calls.index(("prefill", 0, 1)) + 1)
    assert all(call[0] != "begin" for call in runner.calls[1:first_read])
    assert ("decode", 0, 1, 2) in runner.calls


def test_more_choices_than_slots_come_one_after_the_other():
    async def scene():
        async with started(FakeRunner(num_slots=1)) as engine:
            return [event async for event in engine.generate(request(b"Hi", num_choices=3))]

    ends = [event.choice for event in asyncio.run(scene()) if isinstance(event, Finished)]
    assert ends == [0, 1, 2]


def test_leaving_a_request_ends_all_of_its_choices():
    async def scene():
        runner = FakeRunner(num_slots=2)
        async with started(runner) as engine:
            runner.gates["decode"].close()
            client = await Client.asking(engine, b"Hi", num_choices=3)
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            await client.hang_up()
            assert (engine.num_running, engine.num_waiting) == (0, 0)
            runner.open_gates()
            assert await Client(engine, b"Ho").text() == "Hello."
        begun = [call for call in runner.calls if call[0] == "begin"]
        assert len(begun) == 2  # the leader, and the newcomer

    asyncio.run(scene())


def test_a_choice_that_fails_is_the_end_of_the_request():
    async def scene():
        runner = FakeRunner(num_slots=2)
        runner.raise_in("prefill", RuntimeError("broken"), b"Hi")
        async with started(runner) as engine:
            with pytest.raises(EngineError):
                _ = [event async for event in engine.generate(request(b"Hi", num_choices=2))]
            assert await Client(engine, b"Ho").text() == "Hello."
        assert [call[0] for call in runner.calls].count("begin") == 2

    asyncio.run(scene())


def test_several_choices_take_one_place_in_line():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner, max_queue=1) as engine:
            runner.gates["prefill"].close()
            clients = [await Client.asking(engine, b"a", num_choices=4), await Client.asking(engine, b"b")]
            assert not engine.has_room
            with pytest.raises(OverloadedError):
                await anext(engine.generate(request(b"c")))
            runner.open_gates()
            assert await clients[1].text() == "Hello."

    asyncio.run(scene())


def test_prompts_asked_together_run_together_and_are_told_apart_by_their_choices():
    async def scene():
        runner = FakeRunner({b"one": b"First.", b"two": b"Second."}, num_slots=4)
        runner.gates["decode"].close()
        async with started(runner) as engine:
            asked = [request(b"one", num_choices=2), request(b"two", num_choices=2, first_choice=2)]
            answer = asyncio.create_task(collect(engine.generate(*asked)))
            await asyncio.to_thread(runner.gates["decode"].wait_for_arrival)
            runner.open_gates()
            return runner, await answer

    runner, events = asyncio.run(scene())
    texts = ["".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == i) for i in range(4)]
    assert texts == ["First.", "First.", "Second.", "Second."]
    assert ("decode", 0, 1, 2, 3) in runner.calls


def test_one_prompt_s_failure_is_the_end_of_those_asked_with_it():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            asked = [request(b"one"), request(b"two", max_tokens=10_000)]
            with pytest.raises(ContextLengthError):
                await collect(engine.generate(*asked))
            assert runner.calls == []
            runner.raise_in("prefill", RuntimeError("broken"), b"two")
            with pytest.raises(EngineError):
                await collect(engine.generate(request(b"one"), request(b"two")))
            assert (engine.num_running, engine.num_waiting) == (0, 0)
            assert await Client(engine, b"Ho").text() == "Hello."

    asyncio.run(scene())


def test_a_slot_whose_grammar_still_thinks_is_asked_again_and_holds_up_nobody():
    class Thinking(FakeRunner):
        is_thinking = True

        def decode(self, slots):
            tokens = super().decode(slots)
            for i, slot in enumerate(slots):
                if self._slots[slot].request.request_id == "slow" and self.is_thinking:
                    self._slots[slot].rest.insert(0, tokens[i])
                    tokens[i] = None
            return tokens

    async def scene():
        runner = Thinking({b"slow": b"At last.", b"fast": b"Here."})
        async with started(runner) as engine:
            slow = await Client.asking(engine, b"slow")
            assert await Client(engine, b"fast").text() == "Here."
            runner.is_thinking = False
            assert await slow.text() == "At last."

    asyncio.run(scene())


def test_many_prompts_asked_together_leave_room_and_their_turns_to_others():
    began: list[bytes] = []

    class Noting(FakeRunner):
        def begin(self, free, request):
            began.append(bytes(request.token_ids))
            return super().begin(free, request)

    async def scene():
        answers = {bytes([i]): bytes([i]) for i in range(6)} | {b"other": b"x"}
        runner = Noting(answers, num_slots=1)
        async with started(runner, max_queue=1) as engine:
            runner.gates["prefill"].close()
            many = asyncio.create_task(collect(engine.generate(*(request(bytes([i])) for i in range(6)))))
            await asyncio.to_thread(runner.gates["prefill"].wait_for_arrival)
            assert (engine.num_running, engine.num_waiting, engine.has_room) == (1, 5, True)
            other = asyncio.create_task(collect(engine.generate(request(b"other"))))
            await asyncio.sleep(0)
            assert not engine.has_room
            runner.open_gates()
            await other
            return await many

    events = asyncio.run(scene())
    assert began.index(b"other") <= 2
    assert [event.text for event in events if isinstance(event, TextDelta)] == [chr(i) for i in range(6)]


def test_a_server_that_drains_answers_all_prompts_that_it_took():
    async def scene():
        runner = FakeRunner(num_slots=1)
        async with started(runner) as engine:
            runner.gates["prefill"].close()
            answer = asyncio.create_task(collect(engine.generate(request(b"one"), request(b"two"))))
            await asyncio.to_thread(runner.gates["prefill"].wait_for_arrival)
            draining = asyncio.create_task(engine.drain(20))
            runner.open_gates()
            await draining
            return await answer

    assert sum(isinstance(event, Finished) for event in asyncio.run(scene())) == 2
