"""Which web pages may use this server from within a browser (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from collections.abc import Sequence

import falcon
from falcon.asgi import Request, Response


class Cors(falcon.CORSMiddleware[Request, Response]):
    """Falcon's middleware, for the pages of ``origins``: none, some, or ``*`` for all."""

    def __init__(self, origins: Sequence[str]) -> None:
        super().__init__("*" if "*" in origins else origins, expose_headers=["x-request-id", "Retry-After"])

    async def process_response_async(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Tells the browser, and caches that others are told otherwise."""
        await super().process_response_async(req, resp, resource, req_succeeded)
        if self.allow_origins != "*" and self.allow_origins:
            resp.append_header("Vary", "Origin")
