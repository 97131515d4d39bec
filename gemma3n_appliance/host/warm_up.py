"""The first requests, made by the server itself: what is slow only once is slow before anybody waits."""

import base64
import io
import time
import wave
from collections.abc import Iterator
from typing import Any

import structlog
from PIL import Image

from ..engine.pulse import Pulse
from ..engine.request import GenerationRequest
from ..engine.runner import LoadedModel, Runner
from ..prompt.prompts import Prompts
from ..protocol.chat_request import ChatCompletionRequest

log = structlog.get_logger(__name__)

SAMPLE_RATE_HZ = 16_000

Part = dict[str, Any]


def warm_up(model: LoadedModel, prompts: Prompts, prefill_chunk: int, pulse: Pulse) -> None:
    """Answers a text, a picture and a clip. Call it in the engine's thread, before its loop.

    Raises whatever the text raises: such a model cannot serve. What fails with a picture or a clip alone
    is logged, for a server that can still answer text; which is seen anew, for a GPU may be lost after that.
    """

    def answer(path: str, media: list[Part]) -> None:
        began = time.monotonic()
        prompt = prompts.for_chat(_body(media), model, f"warm-up-{path}")
        _answer(model.runner, prompt.request, prefill_chunk, pulse)
        log.info("warmed_up", path=path, seconds=round(time.monotonic() - began, 2))

    def attempt(path: str, media: Part) -> None:
        try:
            answer(path, [media])
        except Exception:
            log.exception("warm_up_failed", path=path)
            answer("text", [])

    answer("text", [])
    for path, media in _media(model):
        attempt(path, media)


def _media(model: LoadedModel) -> Iterator[tuple[str, Part]]:
    if model.has_vision:
        yield "image", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png()}"}}
    if model.has_audio:
        yield "audio", {"type": "input_audio", "input_audio": {"data": _wav(), "format": "wav"}}


def _body(media: list[Part]) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": "Hello"}]}]
    return ChatCompletionRequest.model_validate({"model": "gemma3n", "messages": messages, "max_tokens": 2})


def _answer(runner: Runner, request: GenerationRequest, prefill_chunk: int, pulse: Pulse) -> None:
    """Two tokens: one that ends the prefill, and one of a decode step."""
    pulse.beat()
    slot = runner.begin(range(runner.num_slots), request).slot
    try:
        while runner.prefill(slot, prefill_chunk) is None:
            pulse.beat()
        pulse.beat()
        runner.decode([slot])
    finally:
        runner.release(slot)


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _wav() -> str:
    """One second of silence."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(bytes(2 * SAMPLE_RATE_HZ))
    return base64.b64encode(buffer.getvalue()).decode()
