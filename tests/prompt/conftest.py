from pathlib import Path

import pytest

from gemma3n_appliance.engine.runner import LoadedModel
from gemma3n_appliance.prompt.prompts import Prompts
from gemma3n_appliance.settings import Settings
from tests.fakes import checkpoint


class Sized:
    """As much of a runner as prompts look at."""

    num_slots = 1

    def __init__(self, max_context: int) -> None:
        self.max_context = max_context


def model(max_context: int = 500, **senses: bool) -> LoadedModel:
    return LoadedModel(Sized(max_context), [b""] * 300, frozenset(), "cpu", checkpoint.grammars(), **senses)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def prompts(directory: Path) -> Prompts:
    settings = Settings(_env_file=None, model_name=str(directory), max_length=100, max_image_pixels=10_000)
    return Prompts(settings)
