"""What ``GET /status`` answers: all that the page at ``/`` shows of the appliance."""

from pydantic import BaseModel

from .health import Health
from .reading import Reading


class RecentError(BaseModel):
    """A request that failed through no fault of its sender's; ``at`` is Unix time."""

    at: int
    request_id: str
    path: str
    status: int | None
    code: str | None
    message: str


class Status(BaseModel):
    """The server, its board, and what went wrong lately, latest first."""

    health: Health
    readings: list[Reading]
    errors: list[RecentError]
