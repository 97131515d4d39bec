import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from falcon.asgi import Response

from gemma3n_appliance.api import sse
from gemma3n_appliance.engine.events import TextDelta
from gemma3n_appliance.errors import ShuttingDownError
from gemma3n_appliance.protocol.chat_reply import ChatCompletionChunk
from gemma3n_appliance.protocol.reply import Reply
from gemma3n_appliance.protocol.responses_reply import ArgumentsDone, ArgumentsTold, ErrorTold
from gemma3n_appliance.reply.chat import ChatReply
from gemma3n_appliance.reply.told import Tally


def chunk(text: str) -> ChatCompletionChunk:
    return ChatReply("m").tell(TextDelta(text, 1), Tally())[0]


async def frames_of(chunks: AsyncGenerator[ChatCompletionChunk, None]) -> list[bytes]:
    resp = Response()
    await sse.stream({}, resp, chunks, ping_interval_s=0.01)
    return [frame async for frame in resp.stream]


def test_silence_is_filled_with_comments():
    async def run() -> list[bytes]:
        spoken = asyncio.Event()

        async def slow():
            await spoken.wait()
            yield chunk("a")

        resp = Response()
        await sse.stream({}, resp, slow(), ping_interval_s=0.01)
        frames = [await anext(resp.stream), await anext(resp.stream)]
        spoken.set()
        return frames + [frame async for frame in resp.stream]

    frames = asyncio.run(run())
    assert frames[:2] == [b": ping\n\n"] * 2
    assert [frame[:6] for frame in frames if frame != b": ping\n\n"] == [b"data: ", b"data: "]
    assert frames[-1] == b"data: [DONE]\n\n"


def test_a_frame_is_one_line_whatever_the_text():
    async def lines():
        yield chunk("a\nb\r\n\ndata: [DONE]\n\n\u2028")

    frame = asyncio.run(frames_of(lines()))[0]
    assert frame.count(b"\n") == 2
    assert frame.endswith(b"\n\n")


def test_closing_the_stream_closes_what_feeds_it():
    closed = []

    async def run() -> None:
        async def endless():
            try:
                while True:
                    yield chunk("a")
            finally:
                closed.append(True)

        resp = Response()
        await sse.stream({}, resp, endless())
        await anext(resp.stream)
        await resp.stream.close()

    asyncio.run(run())
    assert closed == [True]


def test_a_stream_of_typed_events_ends_without_a_word_or_with_an_event_of_its_own():
    async def said(error: Exception | None) -> AsyncGenerator[Reply, None]:
        place = {"item_id": "i", "output_index": 0}
        yield ArgumentsTold(sequence_number=0, delta="{", **place)
        yield ArgumentsDone(sequence_number=1, name="f", arguments="{}", **place)
        if error:
            raise error

    async def frames(error: Exception | None) -> list[bytes]:
        resp = Response()
        await sse.stream({}, resp, said(error), is_typed=True)
        return [frame async for frame in resp.stream]

    whole = asyncio.run(frames(None))
    assert [frame.split(b"\n")[0] for frame in whole] == [
        b"event: response.function_call_arguments.delta",
        b"event: response.function_call_arguments.done",
    ]
    broken = asyncio.run(frames(RuntimeError("secret")))
    assert broken[:2] == whole
    name, data = broken[2].strip().split(b"\n")
    assert name == b"event: error"
    event = json.loads(data.removeprefix(b"data: "))
    assert (event["type"], event["sequence_number"]) == ("error", 2)
    ErrorTold.model_validate(event, strict=True)
    assert event["message"] == event["error"]["message"]
    assert "secret" not in event["message"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "insufficient_memory"),
        (RuntimeError("secret"), None),
        (ShuttingDownError("Later."), "shutting_down"),
    ],
)
def test_what_breaks_a_stream_is_its_last_frame(error, code):
    async def breaking():
        yield chunk("a")
        raise error

    *_, last = asyncio.run(frames_of(breaking()))
    told = json.loads(last.removeprefix(b"data: "))["error"]
    assert told["code"] == code
    assert "secret" not in told["message"]
