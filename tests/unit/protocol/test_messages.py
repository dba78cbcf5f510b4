"""Requests of /v1/messages on the wire."""

from typing import Any

import pytest
from pydantic import ValidationError

from trtllm_openai.protocol.messages import CountTokensRequest, MessagesRequest

TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": "5"},
        {"messages": []},
        {"messages": ["Hi"]},
        {"system": [5]},
        {"temperature": -1.0},
        {"stop_sequences": "x"},
        {"thinking": {"type": "deep"}},
        {"thinking": {"type": "enabled", "budget_tokens": 0}},
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "required"}},
        {"output_config": {"effort": 5}},
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        MessagesRequest.model_validate({"messages": [TURN], "max_tokens": 5, **fields})
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


def test_what_claude_code_sends_is_known() -> None:
    body = MessagesRequest.model_validate(
        {
            "model": "m",
            "max_tokens": 32_000,
            "messages": [TURN],
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "tools": [],
            "metadata": {"user_id": "u"},
            "thinking": {"type": "adaptive", "display": "omitted"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "xhigh"},
            "cache_control": {"type": "ephemeral"},
            "stream": True,
        }
    )
    assert body.model_extra == {}


def test_a_count_needs_no_max_tokens_and_has_no_sampling() -> None:
    body = CountTokensRequest.model_validate({"messages": [TURN], "temperature": 0.5})
    assert body.model_extra == {"temperature": 0.5}
    with pytest.raises(ValidationError):
        MessagesRequest.model_validate({"messages": [TURN]})
