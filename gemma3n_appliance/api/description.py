"""``GET /openapi.json``."""

import json

from falcon.asgi import Request, Response

from .. import __version__
from ..protocol.openapi import document


class DescriptionResource:
    """Describes the API to programs."""

    def __init__(self) -> None:
        self._document = json.dumps(document(__version__)).encode()

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Answers with the OpenAPI document."""
        resp.data = self._document
