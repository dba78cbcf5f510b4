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
WITHOUT_ANSWER: dict[str, dict[str, Any]] = {
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/responses/compact": {"input": "Hi"},
    "/v1/messages/count_tokens": {"messages": HI["messages"]},
    "/tokenize": {"messages": HI["messages"]},
}
"""Routes that only make the prompt, or an answer of the server's own."""
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
    ("/v1/messages", "output_format", {"type": "json_schema", "schema": {}}),
    ("/v1/messages", "prompt", "Hi"),
    ("/v1/chat/completions", "suffix", "x"),
    ("/v1/chat/completions", "prompt", "Hi"),
    ("/v1/completions", "tools", [{"type": "function", "function": {"name": "f"}}]),
    ("/v1/completions", "max_completion_tokens", 5),
    ("/v1/completions", "thinking_token_budget", 5),
    ("/v1/completions", "audio", {"voice": "a"}),
    ("/v1/responses", "suffix", "x"),
    ("/v1/responses", "include_reasoning", False),
    ("/v1/messages", "skip_special_tokens", False),
    ("/v1/responses/input_tokens", "messages", HI["messages"]),
    ("/v1/responses/input_tokens", "prompt", {"id": "p"}),
    ("/v1/responses/input_tokens", "reasoning_effort", "low"),
    ("/v1/responses/input_tokens", "truncate_prompt_tokens", 3),
    ("/v1/responses/compact", "temperature", 0.5),
    ("/v1/responses/compact", "max_output_tokens", 5),
    ("/v1/responses/compact", "stream", True),
    ("/v1/responses/compact", "truncation", "auto"),
    ("/v1/responses/compact", "chat_template_kwargs", {"a": 1}),
    ("/v1/messages/count_tokens", "documents", [{"title": "a"}]),
    ("/v1/messages/count_tokens", "add_generation_prompt", False),
    ("/v1/messages/count_tokens", "mcp_servers", [{"type": "url"}]),
    ("/tokenize", "chat_template", "x"),
    ("/tokenize", "functions", [{"name": "f"}]),
    ("/tokenize", "truncate_prompt_tokens", 3),
]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [(path, *item) for path in BODIES for item in EVERYWHERE.items()] + ON_A_ROUTE,
)
def test_refused_by_name(demo_tokenizer: Tokenizer, path: str, name: str, value: object) -> None:
    served = Served(demo_tokenizer)
    response = served.post(path, {**BODIES, **WITHOUT_ANSWER}[path] | {name: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(f"'{name}' is not supported")
    if not path.startswith("/v1/messages"):
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
        ("/v1/completions", {"tools": [], "tool_choice": "none", "include_reasoning": True}),
        ("/v1/chat/completions", {"suffix": ""}),
        ("/v1/responses/compact", {"stream": False, "truncation": "disabled"}),
        ("/v1/responses/input_tokens", {"functions": []}),
        ("/tokenize", {"truncation_side": "left", "chat_template": None}),
    ],
)
def test_fields_of_chat_that_ask_for_nothing(
    demo_tokenizer: Tokenizer, path: str, fields: dict[str, Any]
) -> None:
    response = Served(demo_tokenizer).post(path, {**BODIES, **WITHOUT_ANSWER}[path] | fields)
    assert response.status_code == 200, response.text
    assert "x-ignored-params" not in response.headers


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/messages", {"output_config": {"task_budget": {"total": 9}}}, "output_config.task_budget"),
        ("/v1/responses", {"text": {"verbosity": "low"}}, "text.verbosity"),
        ("/v1/responses", {"reasoning": {"summary": "auto", "depth": 1}}, "reasoning.depth"),
        (
            "/v1/chat/completions",
            {"stream": True, "stream_options": {"sparkle": 1}},
            "stream_options.sparkle",
        ),
        # What Codex sends to have a conversation compacted; a summary has neither tools nor thinking.
        (
            "/v1/responses/compact",
            {"tools": [{"type": "function", "name": "f"}], "text": {"verbosity": "low"}},
            "text, tools",
        ),
        (
            "/v1/messages/count_tokens",
            {"temperature": 1, "stop_sequences": ["x"]},
            "stop_sequences, temperature",
        ),
        ("/v1/messages", {"prompt_cache_key": "a"}, "prompt_cache_key"),
    ],
)
def test_what_is_ignored_is_named(
    demo_tokenizer: Tokenizer, path: str, fields: dict[str, Any], named: str
) -> None:
    response = Served(demo_tokenizer).post(path, {**BODIES, **WITHOUT_ANSWER}[path] | fields)
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-params"] == named


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
