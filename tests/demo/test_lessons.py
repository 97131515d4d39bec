"""What the checkpoint is trained on must be, token for token, what the server will send it."""

import random

import pytest

from gemma3n_appliance.demo import checkpoint, conversations, curriculum, lessons, train, wire


@pytest.fixture(scope="module")
def processor():
    return checkpoint.processor(train.tokenizer())


@pytest.mark.parametrize("draw", [curriculum.copied, curriculum.spoken, curriculum.shown])
def test_a_lesson_is_what_the_chat_template_and_the_processor_make_of_the_conversation(processor, draw):
    rng = random.Random(3)
    for _ in range(8):
        conversation = draw(rng, conversations.wordings("taught"))
        assert lessons.Teacher(processor).lesson(conversation).token_ids == _reference(
            processor, conversation
        )


def test_labels_are_the_answers_and_nothing_else(processor):
    conversation = curriculum.spoken(random.Random(5), conversations.wordings("taught"))
    lesson = lessons.Teacher(processor).lesson(conversation)
    said = processor.tokenizer.decode([label for label in lesson.labels if label != lessons.IGNORED])
    assert said == "".join(f"{exchange.answer}<end_of_turn>" for exchange in conversation.exchanges)


def test_a_batch_is_padded_on_the_right_and_pads_are_no_lesson(processor):
    rng = random.Random(7)
    draw = lambda: curriculum.spoken(rng, conversations.wordings("taught"))  # noqa: E731
    for batch in lessons.Teacher(processor).batches(draw, rng):
        is_padding = batch.token_ids == processor.tokenizer.pad_token_id
        assert (batch.labels[is_padding] == lessons.IGNORED).all()
        assert not is_padding[:, 0].any()
        assert lessons.LEAST_BATCH_TOKENS <= batch.token_ids.numel() <= 4096


def _reference(processor, conversation):
    turns = [
        *wire.messages(conversation),
        {"role": "assistant", "content": conversation.exchanges[-1].answer},
    ]
    text = processor.apply_chat_template([_placeholders(turn) for turn in turns])
    images = [picture.image for exchange in conversation.exchanges for picture in exchange.images]
    clips = [clip for exchange in conversation.exchanges for clip in exchange.audio]
    media = {"images": [images]} if images else {}
    media |= {"audio": clips} if clips else {}
    return list(processor(text=text, add_special_tokens=False, **media)["input_ids"][0])


def _placeholders(turn):
    if isinstance(turn["content"], str):
        return turn
    kinds = {"image_url": "image", "input_audio": "audio", "text": "text"}
    return {**turn, "content": [{**part, "type": kinds[part["type"]]} for part in turn["content"]]}
