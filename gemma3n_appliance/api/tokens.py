"""``POST /tokenize`` and ``POST /detokenize``: what a text or a chat would cost."""

from falcon.asgi import Request, Response

from ..engine.engine import Engine
from ..prompt import counting
from ..prompt.prompts import Prompts
from ..protocol.tokens import DetokenizeRequest, TokenizeRequest
from ..settings import Settings
from .body import read_json
from .models import ModelNames
from .workers import Workers


class TokensResource:
    """Turns text into tokens and back."""

    def __init__(self, settings: Settings, engine: Engine, prompts: Prompts, names: ModelNames) -> None:
        self._settings = settings
        self._engine = engine
        self._prompts = prompts
        self._names = names
        self._workers = Workers()

    async def on_post_tokenize(self, req: Request, resp: Response) -> None:
        """Answers with the ids of a text's tokens, or of the prompt that a conversation becomes."""
        with self._engine.place_in_line():
            body = await read_json(req, TokenizeRequest, self._settings.max_body_mb, self._workers)
            self._check(body.model)
            model = await self._engine.wait_ready(self._settings.load_wait)
            tokenized = await self._workers.run(counting.tokenize, body, model, self._prompts)
            resp.data = tokenized.model_dump_json().encode()

    async def on_post_detokenize(self, req: Request, resp: Response) -> None:
        """Answers with the text of tokens."""
        with self._engine.place_in_line():
            body = await read_json(req, DetokenizeRequest, self._settings.max_body_mb, self._workers)
            self._check(body.model)
            model = await self._engine.wait_ready(self._settings.load_wait)
            detokenized = await self._workers.run(counting.detokenize, body, model)
            resp.data = detokenized.model_dump_json().encode()

    def _check(self, name: str | None) -> None:
        if name is not None:
            self._names.check(name)
