"""What clients send is brought to the form templates expect, or refused with its place."""

from typing import Any

import pytest

from trtllm_openai.chat.messages import knows_developer, normalise
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


def test_a_function_call_is_a_tool_call() -> None:
    """As clients wrote it before there were tool calls; the id has the form of Mistral's."""
    call, result = normalise(
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
            {"role": "function", "name": "f", "content": "done"},
        ]
    )
    function = {"name": "f", "arguments": {"x": 1}}
    assert call == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "000000000", "type": "function", "function": function}],
    }
    assert result == {"role": "tool", "name": "f", "content": "done", "tool_call_id": "000000000"}


def test_tool_calls_succeed_a_function_call() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    old = {"name": "f", "arguments": "{}"}
    (message,) = normalise([{"role": "assistant", "tool_calls": calls, "function_call": old}])
    assert [call["id"] for call in message["tool_calls"]] == ["1"]
    assert "function_call" not in message
    (alone,) = normalise([{"role": "function", "name": "f", "content": "done"}])
    assert (alone["role"], "tool_call_id" in alone) == ("tool", False)


def test_roles_of_the_templates_own() -> None:
    roles = ["ipython", "document", "developer"]
    messages = [{"role": role, "content": "x"} for role in roles]
    assert [message["role"] for message in normalise(messages)] == ["ipython", "document", "system"]
    assert [message["role"] for message in normalise(messages, developer=True)] == roles
    assert knows_developer("{% if message.role == 'developer' %}")
    assert knows_developer('{% if m["role"] in ["system", "developer"] %}')
    assert not knows_developer("{# for developers #}{{ message.role }}")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({}, "role"),
        ({"role": "", "content": ""}, "role"),
        ({"role": "x" * 65, "content": ""}, "role"),
        ({"role": "robot"}, "content"),
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
        ({"role": "assistant", "tool_calls": [5]}, "tool_calls[0].function"),
        ({"role": "assistant", "function_call": "f"}, "function_call"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, "function_call.name"),
        ({"role": "function", "name": "f"}, "content"),
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
