"""What the checkpoint is trained on must be, token for token, what the server will send it."""

import itertools
import json
import random

import pytest
import torch

from gemma3n_appliance.demo import (
    architecture,
    board,
    calls,
    checkpoint,
    conversations,
    curriculum,
    language,
    lessons,
    train,
    wire,
)
from gemma3n_appliance.prompt.conversation import from_messages
from gemma3n_appliance.prompt.tools import instructions
from gemma3n_appliance.protocol.chat_request import ChatCompletionRequest
from gemma3n_appliance.protocol.wire import parse


@pytest.fixture(scope="module")
def processor():
    return checkpoint.processor(train.tokenizer())


@pytest.mark.parametrize("draw", [curriculum.copied, curriculum.spoken, curriculum.shown, curriculum.called])
def test_a_lesson_is_what_the_chat_template_and_the_processor_make_of_the_conversation(processor, draw):
    rng = random.Random(3)
    for _ in range(8):
        conversation = draw(rng, conversations.wordings("taught"))
        assert lessons.Teacher(processor).lesson(conversation).token_ids == _reference(
            processor, conversation
        )


@pytest.mark.parametrize("system", [None, "Answer in capital letters."])
def test_a_lesson_with_two_calls_and_what_follows_is_what_the_server_makes_of_it(processor, system):
    rng, asked = random.Random(4), conversations.wordings("taught")
    exchanges = [*calls.two_temperatures(rng, asked), *calls.fan(rng, asked)]
    toolset = board.Toolset((board.thermometer(), board.fan()))
    conversation = conversations.Conversation(exchanges, system, toolset)
    lesson = lessons.Teacher(processor).lesson(conversation)
    assert lesson.token_ids == _reference(processor, conversation)


@pytest.mark.parametrize("draw", [curriculum.spoken, curriculum.called])
def test_labels_are_the_answers_and_nothing_else(processor, draw):
    conversation = draw(random.Random(5), conversations.wordings("taught"))
    lesson = lessons.Teacher(processor).lesson(conversation)
    said = processor.tokenizer.decode([label for label in lesson.labels if label != lessons.IGNORED])
    assert said == "".join(f"{exchange.answer}<end_of_turn>" for exchange in conversation.exchanges)


def test_a_batch_packs_whole_lessons_and_what_fills_it_up_is_no_lesson(processor):
    rng = random.Random(7)
    drawn = []

    def draw():
        draws = (curriculum.spoken, curriculum.shown)
        drawn.append(rng.choice(draws)(rng, conversations.wordings("taught")))
        return drawn[-1]

    teacher = lessons.Teacher(processor)
    packed, images, clips = [], [], []
    for batch in itertools.islice(teacher.batches(draw), 2):
        assert batch.token_ids.shape == (lessons.NUM_ROWS, lessons.ROW_LENGTH)
        assert (batch.labels[batch.lesson < 0] == lessons.IGNORED).all()
        assert (batch.lesson >= 0).float().mean() > 0.8
        packed += _unpacked(batch)
        images += batch.images
        clips += batch.audio
    known = [teacher.lesson(conversation) for conversation in drawn]
    assert all(lesson in [(x.token_ids, x.labels) for x in known] for lesson in packed)
    ids = [token_id for token_ids, _ in packed for token_id in token_ids]
    assert ids.count(processor.image_token_id) == len(images) * architecture.NUM_IMAGE_TOKENS
    assert ids.count(processor.audio_token_id) == len(clips) * architecture.NUM_AUDIO_TOKENS


def test_media_are_in_the_order_of_their_places(processor):
    rng = random.Random(8)
    asked = conversations.wordings("taught")
    teacher = lessons.Teacher(processor)
    first, second = (
        teacher.lesson(conversations.Conversation([conversations.two_pictures(rng, asked)])) for _ in range(2)
    )
    rows = lessons.Rows()
    assert rows.take(first)
    assert rows.take(second)
    assert rows.batch(0).images == [*first.images, *second.images]


def test_no_lesson_attends_to_another_or_to_what_comes_later():
    lesson = torch.tensor([[0, 0, 0, 1, 1, -1]])
    masks = language._masks(lesson, 2)
    full = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    full += [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert masks["full_attention"][0, 0].int().tolist() == full
    full[2][0] = 0
    assert masks["sliding_attention"][0, 0].int().tolist() == full


@pytest.mark.parametrize(
    ("done", "num_steps", "kinds"),
    [(0, 2, "cc"), (0, 5, "cccmm"), (2, 5, "cmm"), (4, 5, "m"), (5, 5, ""), (5, 2, "")],
)
def test_copying_comes_first_and_an_interrupted_training_goes_on_where_it_was(
    monkeypatch, done, num_steps, kinds
):
    class Stub:
        def batches(self, draw):
            return itertools.repeat("m" if draw.__name__ == "mixed" else "c")

    monkeypatch.setattr(language, "COPYING_STEPS", 3)
    assert "".join(language._stream(Stub(), random.Random(1), None, done, num_steps)) == kinds


def test_the_rate_falls_to_nothing_twice():
    num_steps = 2 * language.SECOND_STEPS
    rates = [language.rate(step, num_steps) for step in range(num_steps + 1)]
    first, second = rates[: language.SECOND_STEPS], rates[language.SECOND_STEPS :]
    top = first.index(max(first))
    assert max(first) == pytest.approx(language.LEARNING_RATE, rel=0.01)
    assert first == sorted(first[:top]) + sorted(first[top:], reverse=True)
    assert first[-1] < language.LEARNING_RATE / 1000
    assert second[0] == language.LEARNING_RATE / 2
    assert second == sorted(second, reverse=True)
    assert second[-1] == 0


def test_what_is_kept_is_taken_up(tmp_path):
    kept = tmp_path / "kept.pt"
    weights = torch.nn.Linear(2, 2)
    learning = torch.optim.AdamW(weights.parameters())
    weights(torch.ones(2)).sum().backward()
    learning.step()
    language._keep(kept, 7, weights, learning)
    new = torch.nn.Linear(2, 2)
    fresh = torch.optim.AdamW(new.parameters())
    assert language._take_up(tmp_path / "none.pt", new, fresh) == 0
    assert language._take_up(kept, new, fresh) == 7
    assert torch.equal(new.weight, weights.weight)
    assert torch.equal(
        fresh.state_dict()["state"][0]["exp_avg"], learning.state_dict()["state"][0]["exp_avg"]
    )


def _unpacked(batch):
    for ids, labels, numbers in zip(batch.token_ids, batch.labels, batch.lesson, strict=True):
        for number in range(int(numbers.max()) + 1):
            own = numbers == number
            yield ids[own].tolist(), labels[own].tolist()


def _reference(processor, conversation):
    turns = [
        *_turns(conversation),
        {"role": "assistant", "content": conversation.exchanges[-1].answer},
    ]
    text = processor.apply_chat_template([_placeholders(turn) for turn in turns])
    images = [picture.image for exchange in conversation.exchanges for picture in exchange.images]
    clips = [clip for exchange in conversation.exchanges for clip in exchange.audio]
    media = {"images": [images]} if images else {}
    media |= {"audio": clips} if clips else {}
    return list(processor(text=text, add_special_tokens=False, **media)["input_ids"][0])


def _turns(conversation):
    """What the server makes of calls, results and functions; the template knows of none of these."""
    if conversation.toolset is None:
        return wire.messages(conversation)
    body = {"model": "m", "messages": wire.messages(conversation), **wire.tools(conversation)}
    request = parse(json.dumps(body).encode(), ChatCompletionRequest)
    told = instructions(request.functions_to_call, parallel=request.may_call_in_parallel)
    folded = from_messages(request.messages, told)
    turns = [{"role": turn.role, "content": turn.parts[0].text} for turn in folded.turns]
    return [{"role": "system", "content": folded.system}, *turns]


def _placeholders(turn):
    if isinstance(turn["content"], str):
        return turn
    kinds = {"image_url": "image", "input_audio": "audio", "text": "text"}
    return {**turn, "content": [{**part, "type": kinds[part["type"]]} for part in turn["content"]]}
