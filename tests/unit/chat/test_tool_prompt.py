"""Tools told in words, for templates that know none."""

from typing import Any

from trtllm_openai.chat.tool_prompt import without_tools

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "description": "날씨"}}
USER = {"role": "user", "content": "Hi"}


def test_without_tools_nothing_changes() -> None:
    assert without_tools([USER], ()) == [USER]


def test_tools_are_introduced_in_a_system_message_of_their_own() -> None:
    first, second = without_tools([USER], (TOOL,))
    assert first["role"] == "system"
    assert '"name": "weather", "description": "날씨"' in first["content"]
    assert second == USER


def test_tools_are_added_to_the_clients_system_message() -> None:
    messages = without_tools([{"role": "system", "content": "Be brief."}, USER], (TOOL,))
    assert len(messages) == 2
    assert messages[0]["content"].startswith("Be brief.\n\n")
    assert '"weather"' in messages[0]["content"]


def test_calls_and_results_are_written_out_as_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
    asked, answered = without_tools(
        [
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]},
            {"role": "tool", "content": "Sunny", "tool_call_id": "1"},
        ],
        (),
    )
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "서울"}}\n</tool_call>'
    assert asked == {"role": "assistant", "content": f"Let me see.\n{written}\n{written}"}
    assert answered == {"role": "user", "content": "<tool_response>\nSunny\n</tool_response>"}
