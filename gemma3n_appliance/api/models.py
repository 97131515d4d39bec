"""``GET /v1/models`` and ``/v1/models/{id}``, and which names requests may use."""

import time
from pathlib import PurePath

from falcon.asgi import Request, Response

from ..errors import ModelNotFoundError
from ..protocol.model_list import Model, ModelList
from ..settings import Settings

ALWAYS_ACCEPTED = "gemma3n"


class ModelNames:
    """The names that mean the model served; case does not matter."""

    def __init__(self, settings: Settings) -> None:
        # A path is the operator's business; clients see the directory's name.
        self.listed = settings.model_dir.name if settings.is_local else settings.model_name
        names = {settings.model_name, settings.repo_id, ALWAYS_ACCEPTED}
        self._accepted = {name.lower() for name in names} | {PurePath(name).name.lower() for name in names}
        self._accepts_any = settings.accept_any_model

    def check(self, name: str) -> None:
        """Raises ModelNotFoundError where ``name`` means another model."""
        if not self._accepts_any and name.lower() not in self._accepted:
            raise ModelNotFoundError(
                f"The model '{name[:200]}' is not served here; use '{self.listed}' or '{ALWAYS_ACCEPTED}'.",
                param="model",
            )


class ModelsResource:
    """Lists the one model there is."""

    def __init__(self, names: ModelNames) -> None:
        self._names = names
        self._model = Model(id=names.listed, created=int(time.time()), owned_by="google")

    async def on_get(self, _req: Request, resp: Response) -> None:
        """Answers with all models."""
        resp.data = ModelList(data=[self._model]).model_dump_json().encode()

    async def on_get_one(self, _req: Request, resp: Response, name: str) -> None:
        """Answers with the model of that name or alias."""
        self._names.check(name)
        resp.data = self._model.model_dump_json().encode()
