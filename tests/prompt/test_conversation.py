import json

import pytest

from gemma3n_appliance.prompt.conversation import Clip, Picture, Text, Turn, from_messages
from gemma3n_appliance.protocol.messages import Message


def messages(*pairs):
    return [Message.model_validate_json(json.dumps({"role": role, "content": text})) for role, text in pairs]


def spoken(*pairs):
    conversation = from_messages(messages(*pairs))
    turns = [
        (turn.role, "|".join(part.text if isinstance(part, Text) else "*" for part in turn.parts))
        for turn in conversation.turns
    ]
    return conversation.system, turns


IMAGE = {"type": "image_url", "image_url": {"url": "data:x"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}


def text(content):
    return {"type": "text", "text": content}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("user", "a")], (None, [("user", "a")])),
        ([("system", "s"), ("user", "a")], ("s", [("user", "a")])),
        ([("system", "s"), ("developer", "d"), ("user", "a")], ("s\n\nd", [("user", "a")])),
        ([("user", "a"), ("user", "b")], (None, [("user", "a\n\nb")])),
        (
            [("user", "a"), ("assistant", "b"), ("assistant", "c")],
            (None, [("user", "a"), ("assistant", "b\n\nc")]),
        ),
        ([("user", "a"), ("user", ""), ("user", "b")], (None, [("user", "a\n\nb")])),
        ([("system", "s")], (None, [("user", "s")])),
        ([("assistant", "b")], (None, [("user", ""), ("assistant", "b")])),
        ([("system", "s"), ("assistant", "b")], (None, [("user", "s"), ("assistant", "b")])),
        (
            [("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c")],
            (None, [("user", "a"), ("assistant", "b"), ("user", "s\n\nc")]),
        ),
        ([("user", "a"), ("system", "s")], (None, [("user", "a\n\ns")])),
        (
            [("user", [text("a"), IMAGE, text("b")]), ("user", "c")],
            (None, [("user", "a|*|b\n\nc")]),
        ),
        ([("user", [IMAGE]), ("user", [AUDIO, text("c")])], (None, [("user", "*|*|c")])),
        ([("user", [text("a"), text("b")])], (None, [("user", "a|b")])),
        ([("assistant", None), ("user", "a")], (None, [("user", ""), ("assistant", ""), ("user", "a")])),
    ],
)
def test_every_order_of_roles_becomes_user_and_model_in_turn(pairs, expected):
    assert spoken(*pairs) == expected


def test_what_an_assistant_refused_with_is_its_text():
    said = [
        Message(role="user", content="a"),
        Message(role="assistant", content=None, refusal="No."),
    ]
    assert from_messages(said).turns[1] == Turn("assistant", (Text("No."),))


def test_media_keep_their_order_and_know_where_they_were():
    conversation = from_messages(messages(("system", "s"), ("user", [IMAGE, AUDIO]), ("user", [IMAGE])))
    assert conversation.media == [
        Picture("data:x", "messages[1].content[0].image_url"),
        Clip("x", "messages[1].content[1].input_audio"),
        Picture("data:x", "messages[2].content[0].image_url"),
    ]
