"""The budget of a request: each limit is exact, named as the client wrote it, and a setting."""

import json
from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.api.budget import MAX_FIELDS, check_budget, check_messages
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

MESSAGE = {"role": "user", "content": "x"}
PARTS = [{"role": "user", "content": ["a", "b"]}, {"role": "assistant", "tool_calls": [{}]}]


def check(body: dict[str, Any], limits: LimitSettings) -> None:
    raw = json.dumps(body)
    check_budget(body, limits, raw.count("[") + raw.count("{"), raw.count(","))


@pytest.mark.parametrize(
    ("setting", "least", "body", "param"),
    [
        ("max_choices", 3, {"prompt": ["a", "b", "c"]}, "prompt"),
        ("max_choices", 3, {"prompt": [[1], [2], [3]]}, "prompt"),
        ("max_choices", 6, {"prompt": ["a", "b", "c"], "n": 2}, "n"),
        ("max_choices", 6, {"prompt": ["a", "b"], "n": 2, "best_of": 3}, "best_of"),
        ("max_choices", 2, {"messages": [MESSAGE], "n": 2}, "n"),
        ("max_choices", 2, {"prompt": [1, 2, 3], "n": 2.0}, "n"),
        ("max_messages", 3, {"messages": [MESSAGE] * 3}, "messages"),
        ("max_messages", 3, {"input": [MESSAGE] * 3}, "input"),
        ("max_message_parts", 3, {"messages": PARTS}, "messages[1].tool_calls"),
        ("max_message_parts", 3, {"input": [{"output": ["a", "b", "c"]}]}, "input[0].output"),
        ("max_tools", 2, {"tools": [{}, {}]}, "tools"),
        ("max_tools", 2, {"functions": [{}, {}]}, "functions"),
        ("max_stop_strings", 2, {"stop": ["a", "b"]}, "stop"),
        ("max_stop_length", 4, {"stop": ["ab", "cd"]}, "stop"),
        ("max_stop_length", 4, {"stop": "abcd"}, "stop"),
        ("max_stop_token_ids", 2, {"stop_token_ids": [1, 2]}, "stop_token_ids"),
        ("max_logit_bias", 2, {"logit_bias": {"1": 1, "2": 1}}, "logit_bias"),
        ("max_logit_bias", 12, {"logit_bias": {"1": 1, "2": 1}, "n": 3, "prompt": ["a", "b"]}, "logit_bias"),
        ("max_logit_bias", 6, {"allowed_token_ids": [1, 2, 3], "n": 2}, "allowed_token_ids"),
        ("max_bad_words", 2, {"bad_words": ["a", "b"]}, "bad_words"),
        ("max_stop_length", 4, {"bad_words": ["ab", "cd"]}, "bad_words"),
        ("max_json_values", 5, {"guided_json": {"a": [1, 2, {"b": {}}]}}, "guided_json"),
        ("max_json_values", 5, {"tools": [1, 2], "messages": [{"role": "user"}, {}]}, "messages"),
        ("max_json_values", 5, {"prompt": [[[], [], []], []]}, "prompt"),
        ("max_json_values", 4, {"unknown": [1, 2, 3, 4]}, "unknown"),
    ],
)
def test_limits_are_exact(setting: str, least: int, body: dict[str, Any], param: str) -> None:
    check(body, LimitSettings(**{setting: least}))
    with pytest.raises(InvalidRequest, match=f"limits.{setting}") as caught:
        check(body, LimitSettings(**{setting: least - 1}))
    assert caught.value.param == param


def test_messages_of_earlier_responses_count() -> None:
    check_messages(3, LimitSettings(max_messages=3), "input")
    with pytest.raises(InvalidRequest, match=r"limits\.max_messages"):
        check_messages(4, LimitSettings(max_messages=3), "input")


def test_a_body_has_a_reasonable_number_of_fields() -> None:
    check({f"x{i}": 1 for i in range(MAX_FIELDS)}, LimitSettings())
    with pytest.raises(InvalidRequest, match=f"{MAX_FIELDS}"):
        check({f"x{i}": 1 for i in range(MAX_FIELDS + 1)}, LimitSettings())


@pytest.mark.parametrize(
    "body",
    [
        {
            "prompt": [1] * 100_000,
            "stop_token_ids": None,
            "stop": None,
        },
        {"prompt": 1, "n": "x", "messages": "x", "tools": 1, "stop": [1, None], "logit_bias": [1]},
        {"messages": [1, {"content": 1}], "n": -1, "best_of": True, "stop_token_ids": "x"},
        {"prompt": [], "messages": [{"content": "a, " * 100_000}]},
    ],
)
def test_what_is_not_counted_is_left_to_validation(body: dict[str, Any]) -> None:
    check(body, LimitSettings())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_messages_have_the_budget_of_a_chat(demo_tokenizer: Tokenizer, path: str) -> None:
    served = Served(demo_tokenizer)
    most = LimitSettings()
    part = {"type": "text", "text": "a"}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [part] * most.max_message_parts}
    for fields, param in (
        ({"messages": [MESSAGE] * (most.max_messages + 1)}, "messages"),
        ({"messages": [{"role": "user", "content": [result]}]}, "messages[0].content"),
        ({"system": [part] * (most.max_message_parts + 1)}, "system"),
        ({"tools": [{}] * (most.max_tools + 1)}, "tools"),
        ({"stop_sequences": ["a"] * (most.max_stop_strings + 1)}, "stop_sequences"),
    ):
        response = served.post(path, {"messages": [MESSAGE], "max_tokens": 5, **fields})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(f"'{param}' has ")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/render", "/tokenize"])
def test_every_route_has_a_budget(demo_tokenizer: Tokenizer, path: str) -> None:
    served = Served(demo_tokenizer)
    most = LimitSettings().max_messages
    assert served.refusal(path, {"messages": [MESSAGE] * (most + 1)})[:2] == (400, "messages")
    assert served.refusal("/v1/responses", {"input": [MESSAGE] * (most + 1)})[:2] == (400, "input")
    assert served.refusal("/v1/completions", {"prompt": ["x"] * 129})[:2] == (400, "prompt")


def test_token_ids_beyond_the_context_are_not_looked_at(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    ids: list[object] = [1] * 50_000  # a small body is validated first
    for prompt in ([*ids, "x"], [[1], [*ids, "x"]]):
        assert served.refusal("/v1/completions", {"prompt": prompt})[1:] == (
            "prompt",
            "context_length_exceeded",
        )
        wrong = {"prompt": prompt, "truncate_prompt_tokens": 5}
        assert served.refusal("/v1/completions", wrong)[2] == "invalid_type"
