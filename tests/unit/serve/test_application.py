"""The application: its layers."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.unit.api.served import Served
from trtllm_openai.errors import ConfigError
from trtllm_openai.text.tokenizer import Tokenizer


def test_other_origins_only_where_they_are_allowed(demo_tokenizer: Tokenizer) -> None:
    for origins in ([], ["http://a"]):
        served = Served(demo_tokenizer, cors_origins=origins)
        headers = served.get("/health", headers={"origin": "http://a"}).headers
        assert headers.get("access-control-allow-origin") == (origins[0] if origins else None)


def test_a_page_of_another_origin_may_read_refusals_too(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, cors_origins=["http://a"], api_key="secret", max_body_bytes=100)
    key = {"authorization": "Bearer secret"}

    def answer(method: str, path: str, headers: dict[str, str], **options: Any) -> httpx.Response:
        return asyncio.run(served.request(method, path, headers={"origin": "http://a"} | headers, **options))

    long = b" " * 101
    answers = [
        answer("GET", "/v1/models", {}),
        answer("POST", "/v1/completions", key, content=long),
        answer("POST", "/v1/completions", key, json={}),
        answer("GET", "/nowhere", key),
        answer("OPTIONS", "/v1/completions", {"access-control-request-method": "POST"}),
    ]
    served.context.draining = True
    answers.append(answer("POST", "/v1/completions", key, json={}))
    assert [one.status_code for one in answers] == [401, 413, 400, 404, 200, 503]
    for one in answers:
        assert one.headers["access-control-allow-origin"] == "http://a"


def test_unknown_paths_have_the_shape_of_every_error(demo_tokenizer: Tokenizer) -> None:
    response = Served(demo_tokenizer).get("/nowhere")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_a_draining_server_takes_no_new_requests(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.context.draining = True
    assert served.refusal("/v1/completions", {"prompt": "x"})[0] == 503
    assert asyncio.run(served.request("GET", "/v1/models")).status_code == 200


def test_keys_that_cannot_be_read(demo_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError):
        Served(demo_tokenizer, api_keys_file="/absent")
