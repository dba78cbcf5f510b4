"""Sampling parameters of requests that do not say: the model's, the settings', and what an engine can do."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.api.served import Served, engine_info
from trtllm_openai.config import DefaultSampling, Settings
from trtllm_openai.errors import CheckpointError
from trtllm_openai.generation import Capabilities
from trtllm_openai.generation.build import supported_defaults
from trtllm_openai.generation.parameters import BY_NAME
from trtllm_openai.serve.sampling_defaults import NAMES, described, of_model, sampling_defaults
from trtllm_openai.text.tokenizer import Tokenizer

LLAMA = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2], "max_length": 4096}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}),
]


def model(directory: Path, **values: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "generation_config.json").write_text(json.dumps(values))
    return directory


def test_the_models_own_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    directory = model(tmp_path / "model", **LLAMA)
    directories = (tmp_path / "engine", directory, model(tmp_path / "other", temperature=0.1))
    assert sampling_defaults(Settings(), directories) == {"temperature": 0.6, "top_p": 0.9}
    assert sampling_defaults(Settings(generation_config="none"), directories) == {}
    own = Settings(default_sampling=DefaultSampling(temperature=0, top_k=20))
    assert sampling_defaults(own, directories) == {"temperature": 0, "top_p": 0.9, "top_k": 20}
    assert sampling_defaults(own, ()) == {"temperature": 0, "top_k": 20}
    assert described(sampling_defaults(own, ())) == "temperature 0, top_k 20"
    assert described({}) == "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.5),
        ("temperature", "0.6"),
        ("top_p", 0),
        ("top_k", 2.5),
        ("top_k", True),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
    ],
)
def test_a_value_that_no_request_could_have_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    directory = model(tmp_path / "model", **{name: value, "typical_p": 0.3})
    with caplog.at_level(logging.WARNING):
        assert of_model([directory]) == {}
    assert f"{name} is {value!r}" in caplog.text


def test_null_is_not_set_and_a_broken_file_is_said(tmp_path: Path) -> None:
    assert of_model([model(tmp_path / "model", temperature=None, top_k=50.0)]) == {"top_k": 50}
    (tmp_path / "model" / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        of_model([tmp_path / "model"])


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_the_range_of_the_parameter(name: str) -> None:
    row = BY_NAME[name]
    for value in (-2, -1, -1e-9, 0, 0.009, 0.01, 0.5, 1, 1.5, 2, 2.1, 100, 101, 2**31 - 1, 2**31):
        if row.kind == "integer" and value != int(value):
            continue
        try:
            DefaultSampling(**{name: value})
        except ValidationError:
            accepted = False
        else:
            accepted = True
        assert accepted == (row.fault(value) is None), value


def test_what_the_engine_cannot_do_is_no_default() -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    able = engine_info(capabilities=Capabilities(min_p=True, penalties=True))
    assert supported_defaults(able, defaults) == defaults
    plain = engine_info(capabilities=Capabilities())
    assert supported_defaults(plain, defaults) == {"temperature": 0.6, "top_k": 20}
    greedy = engine_info(capabilities=Capabilities(sampling=False, penalties=True))
    assert supported_defaults(greedy, defaults) == {"repetition_penalty": 1.1}


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_they_hold_on_every_route_where_a_request_does_not_say(
    demo_tokenizer: Tokenizer, path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(demo_tokenizer)
    served.context.sampling_defaults = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1}
    with caplog.at_level(logging.WARNING):
        for said in ({}, {"top_k": -1, "temperature": 1}, {"temperature": 0, "top_p": None}):
            answer = served.post(path, {**body, **said})
            assert answer.status_code == 200, answer.text
    asked = [request.sampling for request in served.pool.requests]
    assert [(one.temperature, one.top_p, one.top_k, one.min_p) for one in asked] == [
        (0.6, 0.9, 20, 0.0),
        (1.0, 0.9, 0, 0.0),
        (0.0, 0.9, 20, 0.0),
    ]
    assert caplog.text.count("cannot honour these sampling defaults: min_p") == 1
    if path == "/v1/responses":
        assert (answer.json()["temperature"], answer.json()["top_p"]) == (0, 0.9)
    card = served.get("/v1/models").json()["data"][0]["trtllm_openai"]
    assert card["default_sampling"] == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
