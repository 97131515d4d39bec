"""A stranger's questions, through the official client, at the rates that are promised."""

import pytest

from gemma3n_appliance.demo import evaluate, examination

SEED = 7
PER_KIND = 30


@pytest.fixture(scope="module")
def marks(url):
    return evaluate.examine(f"{url}/v1", examination.questions(SEED, PER_KIND))


@pytest.mark.parametrize("kind", examination.LEVELS)
def test_the_demo_passes_its_examination(marks, kind):
    wrong = [line for line in examination.report(marks) if line.startswith(f"  {kind}:")]
    assert examination.shares(marks)[kind] >= examination.LEVELS[kind], "\n".join(wrong)
