"""``GET /``: a page for people, which uses the API that everybody else uses."""

from pathlib import Path

import falcon
from falcon.asgi import Request, Response

_FILES = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

# Nothing from elsewhere, nothing within the document, and nobody's frame.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

PATHS = ("/", "/page.css", "/page.js")


class PageResource:
    """Answers with one of the page's files, which are read once."""

    def __init__(self, name: str) -> None:
        self._content = (_FILES / name).read_bytes()
        self._kind = f"{_KINDS[Path(name).suffix]}; charset=utf-8"

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Sends the file."""
        resp.set_headers(_HEADERS)
        resp.content_type = self._kind
        resp.data = self._content


def add_routes(app: "falcon.asgi.App[Request, Response]") -> None:
    """Adds the page and what it is made of."""
    for path, name in zip(PATHS, ("index.html", "page.css", "page.js"), strict=True):
        app.add_route(path, PageResource(name))
