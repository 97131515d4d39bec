"""What ``GET /health`` answers."""

from pydantic import BaseModel


class Queue(BaseModel):
    """Requests at work and in line."""

    running: int
    waiting: int
    slots: int


class Health(BaseModel):
    """How the server is; ``device`` is known once the model is loaded, ``error`` when loading failed."""

    status: str
    model: str
    device: str | None
    version: str
    queue: Queue
    uptime_s: float
    error: str | None
