import pytest

from .conftest import Serve, Served


def test_the_list_names_the_one_model(serve: Serve):
    listed = serve(model_name="google/gemma-3n-e4b").http.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model.pop("created") > 1_700_000_000
    assert model == {"id": "google/gemma-3n-e4b", "object": "model", "owned_by": "google"}


@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-3n-e4b",
        "google/gemma-3n-E4B-it",
        "gemma-3n-e4b",
        "gemma-3n-E4B-it",
        "GEMMA-3N-E4B",
        "gemma3n",
        "google%2Fgemma-3n-e4b",
    ],
)
def test_every_alias_resolves(serve: Serve, name):
    served = serve(model_name="google/gemma-3n-e4b")
    answer = served.http.get(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["id"]) == (200, "google/gemma-3n-e4b")


def test_a_directory_is_listed_by_its_name_and_not_its_path(served: Served):
    assert served.http.get("/v1/models").json()["data"][0]["id"] == "Gemma-Small"


def test_any_name_is_taken_where_that_is_allowed(serve: Serve):
    served = serve(accept_any_model=True)
    assert served.chat(model="gpt-4o").json()["model"] == "gpt-4o"
    assert served.http.get("/v1/models/gpt-4o").json()["id"] == "Gemma-Small"
