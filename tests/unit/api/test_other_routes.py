"""Fields of a chat request where they have another name: refused with that, unless they ask for nothing."""

from typing import Any

import pytest

from trtllm_openai.api.other_routes import refuse_chat_fields
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.messages import MessagesRequest
from trtllm_openai.protocol.responses import ResponsesRequest

NAMES = {"response_format": "text.format"}


def responses(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": "x", **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": {"type": "text"}}, "'response_format' is not supported by /r: use text.format."),
        ({"n": 2}, "'n' is not supported by /r."),
        ({"unknown": 1, "echo": True}, "'echo' is not supported by /r."),
        ({"function_call": {"name": "f"}}, "'function_call' is not supported by /r."),
    ],
)
def test_a_field_that_would_change_the_answer(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_chat_fields(responses(**fields), "/r", NAMES)
    assert str(caught.value) == said
    assert caught.value.param in fields


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "guided_json": None, "functions": [], "modalities": ["text"]},
        {"prediction": {"type": "content", "content": "x"}, "function_call": "auto"},
        {"unknown": {"a": 1}, "verbosity": "low"},
        {"temperature": 0.5, "top_k": 3, "stop": ["x"], "tools": [], "max_tokens": 5},
    ],
)
def test_what_asks_for_nothing_is_unknown_or_is_known_here(fields: dict[str, Any]) -> None:
    refuse_chat_fields(responses(**fields), "/r", NAMES)


def test_every_route_by_its_own_fields() -> None:
    turn = {"role": "user", "content": "x"}
    body = MessagesRequest.model_validate({"messages": [turn], "max_tokens": 5, "max_completion_tokens": 5})
    with pytest.raises(InvalidRequest, match="max_completion_tokens"):
        refuse_chat_fields(body, "/m", {})
