"""Conversations as an OpenAI client sends them: data URLs for pictures, base64 wav for sounds."""

import base64
import io
import itertools
import json
import wave
from typing import Any

import numpy as np
from PIL import Image

from .conversations import Conversation, Exchange
from .tones import SAMPLE_RATE_HZ, Clip


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Returns the messages that lead up to the conversation's last answer."""
    sent: list[dict[str, Any]] = []
    if conversation.system:
        sent.append({"role": "system", "content": conversation.system})
    ids = (f"call_{number}" for number in itertools.count())
    called: list[str] = []
    for exchange in conversation.exchanges:
        sent += _asked(exchange, called)
        called = [next(ids) for _ in exchange.calls]
        sent.append(_answered(exchange, called))
    return sent[:-1]


def tools(conversation: Conversation) -> dict[str, Any]:
    """Returns the fields of a request that tell of a conversation's functions."""
    if conversation.toolset is None:
        return {}
    functions = [function.model_dump(exclude_none=True) for function in conversation.toolset.functions]
    return {
        "tools": [{"type": "function", "function": function} for function in functions],
        "parallel_tool_calls": conversation.toolset.parallel,
    }


def _asked(exchange: Exchange, called: list[str]) -> list[dict[str, Any]]:
    if not exchange.results:
        return [{"role": "user", "content": content(exchange)}]
    return [
        {"role": "tool", "tool_call_id": call_id, "content": call.result}
        for call_id, call in zip(called, exchange.results, strict=True)
    ]


def _answered(exchange: Exchange, called: list[str]) -> dict[str, Any]:
    if not exchange.calls:
        return {"role": "assistant", "content": exchange.answer}
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for call_id, call in zip(called, exchange.calls, strict=True)
    ]
    return {"role": "assistant", "tool_calls": calls}


def content(exchange: Exchange) -> str | list[dict[str, Any]]:
    """Returns a user turn's content: a string, or parts where there are media."""
    if not exchange.images and not exchange.audio:
        return exchange.text
    parts: list[dict[str, Any]] = [image_part(picture.image) for picture in exchange.images]
    parts += [audio_part(clip) for clip in exchange.audio]
    return [*parts, {"type": "text", "text": exchange.text}]


def image_part(image: Image.Image) -> dict[str, Any]:
    """Returns a picture as a PNG data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def audio_part(clip: Clip) -> dict[str, Any]:
    """Returns a clip as a 16-bit mono wav."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((np.clip(clip, -1, 1) * 32767).astype("<i2").tobytes())
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(buffer.getvalue()).decode(), "format": "wav"},
    }
