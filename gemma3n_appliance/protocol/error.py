"""OpenAI's error object."""

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What is wrong (``message``), of what kind (``type``, ``code``), and where (``param``)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every 4xx and 5xx, and of an error frame in a stream."""

    error: ErrorDetail
