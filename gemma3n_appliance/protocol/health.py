"""What ``GET /health`` answers."""

from pydantic import BaseModel


class Queue(BaseModel):
    """Requests at work and in line."""

    running: int
    waiting: int
    slots: int


class Health(BaseModel):
    """How the server is.

    ``device`` is known once the model is loaded, and ``bytes_left_on_disk``, which of its weights are not in
    memory; ``error`` when loading failed, ``tokens_per_s`` (the last decode steps, all slots together) once
    something was asked.
    """

    status: str
    model: str
    device: str | None
    bytes_left_on_disk: int | None
    version: str
    queue: Queue
    tokens_per_s: float | None
    uptime_s: float
    error: str | None
