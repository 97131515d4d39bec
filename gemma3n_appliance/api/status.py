"""``GET /status``: the server, its board, and what went wrong lately."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from falcon.asgi import Request, Response

from ..errors import ApplianceError
from ..protocol.reading import Reading
from ..protocol.status import RecentError, Status
from .disconnect import Scope
from .health import HealthResource

NUM_ERRORS = 10
_ERROR = "gemma3n.error"


class RecentErrors:
    """The last failures that were no fault of whoever asked."""

    def __init__(self) -> None:
        self._errors: deque[RecentError] = deque(maxlen=NUM_ERRORS)

    def latest_first(self) -> list[RecentError]:
        """Returns them."""
        return [*reversed(self._errors)]

    def request_over(self, scope: Scope, request_id: str, status: int | None) -> None:
        """Notes a request that is over, if it has failed; a stream may have done so after a good status."""
        error = error_of(scope)
        # A server that is not ready tells its balancer so: that is no failure.
        is_probe = scope["path"].startswith("/health")
        has_failed = (status or 0) >= 500 and not is_probe if error is None else error.status >= 500
        if has_failed:
            self._errors.append(
                RecentError(
                    at=int(time.time()),
                    request_id=request_id,
                    path=scope["path"],
                    status=status,
                    code=error.code if error else None,
                    message=error.message if error else "The log says more, under this request's id.",
                )
            )


def error_of(scope: Scope) -> ApplianceError | None:
    """Returns what a request failed of, if it did, and be it in the middle of a stream."""
    error: ApplianceError | None = scope.get(_ERROR)
    return error


def remember(scope: Scope, error: ApplianceError) -> None:
    """Keeps what a request failed of until it is over."""
    scope[_ERROR] = error


class StatusResource:
    """Tells people, by way of the page at ``/``."""

    def __init__(
        self, health: HealthResource, sensors: Callable[[], Iterable[Reading]], errors: RecentErrors
    ) -> None:
        self._health = health
        self._sensors = sensors
        self._errors = errors

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Answers at once, whatever the engine does."""
        # In a thread: a sensor may sit behind a slow bus.
        readings = await asyncio.to_thread(lambda: list(self._sensors()))
        status = Status(health=self._health.health(), readings=readings, errors=self._errors.latest_first())
        resp.set_header("Cache-Control", "no-store")
        resp.data = status.model_dump_json().encode()
