"""What ``GET /v1/models`` answers."""

from typing import Literal

from pydantic import BaseModel


class Model(BaseModel):
    """A model by the name that requests use."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """Every model served."""

    object: Literal["list"] = "list"
    data: list[Model]
