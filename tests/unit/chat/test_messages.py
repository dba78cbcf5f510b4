"""What clients send is brought to the form templates expect, or refused with its place."""

from typing import Any

import pytest

from trtllm_openai.chat.messages import normalise
from trtllm_openai.errors import InvalidRequest

BILLING = "x-anthropic-billing-header: cc_version=2.1.197.1c0; cc_entrypoint=cli;"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (BILLING + "\nBe brief.", "Be brief."),
        ([{"type": "text", "text": BILLING}, {"type": "text", "text": "Be brief."}], "Be brief."),
        (BILLING, ""),
        ("Be brief.\n" + BILLING, "Be brief.\n" + BILLING),
    ],
)
def test_a_billing_header_at_the_head_of_a_system_prompt_is_dropped(content: Any, kept: str) -> None:
    for role in ("system", "developer"):
        assert normalise([{"role": role, "content": content}])[0]["content"] == kept
    (message,) = normalise([{"role": "user", "content": BILLING}])
    assert message["content"] == BILLING


def test_forms_that_are_accepted() -> None:
    messages = normalise(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, "b"]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": '{"x": '}},
                    {"id": "3", "type": "function", "function": {"name": "h", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "done"},
            {"role": "assistant", "content": "ok", "tool_calls": []},
        ]
    )
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[1]["content"] == "a\nb"
    assert messages[1]["name"] == "ann"
    assert messages[2]["content"] == ""
    assert "refusal" not in messages[2]
    assert [call["function"]["arguments"] for call in messages[2]["tool_calls"]] == [{"x": 1}, '{"x": ', {}]
    assert "tool_calls" not in messages[4]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({}, "role"),
        ({"role": "robot", "content": ""}, "role"),
        ({"role": 5, "content": ""}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": [5]}, "content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type"),
        ({"role": "user", "content": ["x", {"type": "image_url", "image_url": {}}]}, "content[1].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "assistant", "tool_calls": {}, "content": ""}, None),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool_calls[0].function.name"),
    ],
)
def test_faults_are_named(message: dict[str, Any], param: str | None) -> None:
    messages = [{"role": "user", "content": "fine"}, message]
    if param is None:
        assert len(normalise(messages)) == 2
        return
    with pytest.raises(InvalidRequest) as caught:
        normalise(messages)
    assert caught.value.param == f"messages[1].{param}"
