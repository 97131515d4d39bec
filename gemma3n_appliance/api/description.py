"""``GET /openapi.json``."""

import json
from functools import cached_property

from falcon.asgi import Request, Response

from .. import __version__
from ..protocol.openapi import document


class DescriptionResource:
    """Describes the API to programs."""

    @cached_property
    def _document(self) -> bytes:
        """Made when first asked for: it takes a tenth of a second that a start has no use for."""
        return json.dumps(document(__version__)).encode()

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Answers with the OpenAPI document."""
        resp.data = self._document
