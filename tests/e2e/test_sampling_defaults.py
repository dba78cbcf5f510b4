"""A model whose generation_config.json has sampling parameters and several ends, as a client meets it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

HI = [{"role": "user", "content": "Say hi."}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Say hi.", "max_tokens": 8},
    "/v1/chat/completions": {"messages": HI, "max_tokens": 8},
    "/v1/responses": {"input": HI, "max_output_tokens": 8},
    "/v1/messages": {"messages": HI, "max_tokens": 8},
}


@pytest.fixture(scope="module")
def model(server: RunningServer, few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The few layers, made greedy by top_k; the second token of the greedy completion ends as EOS does."""
    directory = tmp_path_factory.mktemp("defaults")
    for file in few_layers.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, directory)
        else:
            (directory / file.name).symlink_to(file)
    body = {**ROUTES["/v1/completions"], "temperature": 0, "return_token_ids": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    end = answer["choices"][0]["token_ids"][1]
    values = {"temperature": 1.5, "top_k": 1, "top_p": 0.5, "eos_token_id": [2, end]}
    (directory / "generation_config.json").write_text(json.dumps(values))
    return directory


@pytest.fixture(scope="module")
def own(model: Path) -> Iterator[RunningServer]:
    flags = ["--torch.max-seq-len", "256", "--default-sampling.top-p", "0.9"]
    with serve("--model", str(model), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def http(own: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, timeout=60) as client:
        yield client


def said(http: httpx.Client, path: str, **more: Any) -> str:
    response = http.post(path, json={**ROUTES[path], "ignore_eos": True, **more})
    assert response.status_code == 200, response.text
    answer = response.json()
    match path:
        case "/v1/completions":
            return str(answer["choices"][0]["text"])
        case "/v1/chat/completions":
            return str(answer["choices"][0]["message"]["content"])
        case "/v1/responses":
            return str(answer["output"][0]["content"][0]["text"])
    return str(answer["content"][0]["text"])


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_that_does_not_say_has_them(http: httpx.Client, path: str) -> None:
    greedy = said(http, path, temperature=0)
    assert {said(http, path, seed=seed) for seed in range(3)} == {greedy}, "top_k 1"
    hot = {said(http, path, seed=seed, top_k=-1, temperature=2, top_p=1) for seed in range(3)}
    assert greedy not in hot
    assert len(hot) == 3


def test_they_are_reported(own: RunningServer, http: httpx.Client) -> None:
    expected = {"temperature": 1.5, "top_p": 0.9, "top_k": 1}
    card = http.get("/v1/models").json()["data"][0]
    assert card["trtllm_openai"]["default_sampling"] == expected
    assert "sampling defaults: temperature 1.5, top_p 0.9, top_k 1" in "".join(own.stderr)
    answer = http.post("/v1/responses", json=ROUTES["/v1/responses"]).json()
    assert (answer["temperature"], answer["top_p"]) == (1.5, 0.9)


def test_each_of_its_ends_ends_an_answer(http: httpx.Client) -> None:
    body = {**ROUTES["/v1/completions"], "temperature": 0}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 2


def test_several_http_processes_have_them_and_none_has_none(model: Path) -> None:
    flags = ["--engine", "synthetic", "--model", str(model), "--workers", "2"]
    with serve(*flags) as server:
        for _ in range(4):
            answer = httpx.post(f"{server.url}/v1/responses", json={"input": "Hi", "max_output_tokens": 1})
            assert (answer.json()["temperature"], answer.json()["top_p"]) == (1.5, 0.5)
    with serve(*flags[:4], "--generation-config", "none", "--default-sampling.top-k", "5") as server:
        card = httpx.get(f"{server.url}/v1/models").json()["data"][0]
        assert card["trtllm_openai"]["default_sampling"] == {"top_k": 5}
