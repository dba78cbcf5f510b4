"""Fields that are refused by name: on the routes they belong to, unless they ask for nothing."""

from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.protocol.refused import REFUSED, Refused
from trtllm_openai.text.tokenizer import Tokenizer

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HI,
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": HI,
}
EVERYWHERE = {
    "use_beam_search": True,
    "length_penalty": 0.8,
    "early_stopping": True,
    "lora_request": {"lora_name": "a", "lora_int_id": 1},
    "disaggregated_params": {"request_type": "context_only"},
    "kv_transfer_params": {},
    "no_repeat_ngram_size": 3,
    "detokenize": False,
    "typical_p": 0.9,
}
ON_A_ROUTE = [
    ("/v1/chat/completions", "best_of", 2),
    ("/v1/completions", "prompt_embeds", "AAAA"),
    ("/v1/responses", "echo", True),
    ("/v1/responses", "function_call", {"name": "f"}),
    ("/v1/messages", "max_completion_tokens", 5),
    ("/v1/responses", "response_format", {"type": "json_object"}),
    ("/v1/responses", "n", 2),
    ("/v1/responses", "return_token_ids", True),
    ("/v1/responses", "guided_regex", "a"),
    ("/v1/messages", "mcp_servers", [{"type": "url"}]),
    ("/v1/messages", "logprobs", True),
    ("/v1/messages", "stop", "x"),
]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [(path, *item) for path in BODIES for item in EVERYWHERE.items()] + ON_A_ROUTE,
)
def test_refused_by_name(demo_tokenizer: Tokenizer, path: str, name: str, value: object) -> None:
    served = Served(demo_tokenizer)
    response = served.post(path, {**BODIES[path], name: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(f"'{name}' is not supported")
    if path != "/v1/messages":
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert served.pool.requests == []


@pytest.mark.parametrize("path", BODIES)
def test_values_that_ask_for_nothing_are_accepted_and_not_named(demo_tokenizer: Tokenizer, path: str) -> None:
    neutral = {
        "use_beam_search": False,
        "length_penalty": 1.0,
        "lora_request": None,
        "top_a": 0,
        "logprobs": None,
    }
    response = Served(demo_tokenizer).post(path, {**BODIES[path], **neutral, "sparkle": 1})
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-params"] == "sparkle"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/responses",
            {"n": 1, "logprobs": False, "guided_json": None, "functions": [], "modalities": ["text"]},
        ),
        ("/v1/responses", {"function_call": "auto", "add_generation_prompt": True, "echo": False}),
        ("/v1/messages", {"n": 1, "stop": [], "response_format": None}),
    ],
)
def test_fields_of_chat_that_ask_for_nothing(
    demo_tokenizer: Tokenizer, path: str, fields: dict[str, Any]
) -> None:
    response = Served(demo_tokenizer).post(path, {**BODIES[path], **fields})
    assert response.status_code == 200, response.text
    assert "x-ignored-params" not in response.headers


def test_the_name_on_the_route_is_given(demo_tokenizer: Tokenizer) -> None:
    body = {"input": "Hi", "response_format": {"type": "text"}}
    message = Served(demo_tokenizer).post("/v1/responses", body).json()["error"]["message"]
    assert message == "'response_format' is not supported: use text.format."


def test_no_request_refuses_a_field_that_it_has() -> None:
    for model, fields in REFUSED.items():
        assert not fields.keys() & model.model_fields.keys(), model


def test_what_a_value_asks_for() -> None:
    one = Refused(neutral=(1, False), is_neutral=lambda value: value == [])
    nothing: list[Any] = [None, 1, 1.0, False, []]
    something: list[Any] = [True, 0, 2, "1", [1], {}]
    assert [value for value in nothing + something if one.asked(value)] == something
