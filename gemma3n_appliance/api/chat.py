"""``POST /v1/chat/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from falcon.asgi import Request, Response
from structlog.contextvars import get_contextvars

from ..engine.engine import Engine
from ..prompt.prompts import Prompts
from ..protocol.chat_reply import ChatCompletionChunk
from ..protocol.chat_request import ChatCompletionRequest
from ..reply.chat import Events, Reply, chunks, complete
from ..settings import Settings
from . import sse
from .body import read_json
from .models import ModelNames
from .workers import Workers


class ChatResource:
    """Answers conversations."""

    def __init__(self, settings: Settings, engine: Engine, prompts: Prompts, names: ModelNames) -> None:
        self._settings = settings
        self._engine = engine
        self._prompts = prompts
        self._names = names
        # Apart, so that a line of text does not wait until somebody's photographs are decoded.
        self._for_text, self._for_media = Workers(), Workers()

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answers plainly or as a stream, as the body says."""
        with self._engine.place_in_line():
            body = await read_json(req, ChatCompletionRequest, self._settings.max_body_mb, self._for_text)
        self._names.check(body.model)
        if body.stream:
            await sse.stream(resp, self._chunks(body))
        else:
            resp.data = (await complete(*await self._begin(body))).to_json()

    async def _begin(self, body: ChatCompletionRequest) -> tuple[Events, Reply]:
        """Waits for the model, makes the prompt and returns the events to come."""
        workers = self._for_media if body.has_media else self._for_text
        with self._engine.place_in_line(again=True):
            model = await self._engine.wait_ready(self._settings.load_wait)
            request_id = get_contextvars()["request_id"]
            prompt = await workers.run(self._prompts.for_chat, body, model, request_id)
        reply = Reply(
            model=body.model,
            num_image_tokens=prompt.num_image_tokens,
            num_audio_tokens=prompt.num_audio_tokens,
            num_choices=body.num_choices,
            has_logprobs=bool(body.logprobs),
            may_call=bool(body.functions_to_call),
            has_usage=body.includes_usage,
            has_usage_so_far=body.includes_usage_so_far,
        )
        return self._engine.generate(prompt.request), reply

    async def _chunks(self, body: ChatCompletionRequest) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Begins inside the stream, which tells the client that it is alive while a model loads."""
        events, reply = await self._begin(body)
        async with aclosing(chunks(events, reply)) as said:
            async for chunk in said:
                yield chunk
