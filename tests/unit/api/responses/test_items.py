"""Items of /v1/responses as messages of a chat."""

import json
from typing import Any

import pytest

from trtllm_openai.api.responses.compaction import HEADING, compaction_item
from trtllm_openai.api.responses.items import from_output, read_items
from trtllm_openai.api.responses.names import Origin
from trtllm_openai.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}


def test_text_is_a_message_of_the_user() -> None:
    found = read_items("Hi")
    assert (found.messages, found.origins) == ([USER], [Origin("input")])


def test_calls_join_the_message_before_them() -> None:
    def call(call_id: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", "status": "x"}

    items = [
        {**USER, "type": "message", "id": "item_1"},
        {"role": "assistant", "content": "Wait."},
        call("1"),
        call("2"),
        {"type": "function_call_output", "call_id": "1", "output": "sunny"},
        {"type": "reasoning", "content": []},
        call("3"),
    ]
    found = read_items(items)
    user, assistant, output, last = found.messages
    assert user == USER, "what a chat does not know is left out"
    assert (assistant["content"], [one["id"] for one in assistant["tool_calls"]]) == ("Wait.", ["1", "2"])
    assert output == {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    assert (last["role"], last["content"], last["tool_calls"][0]["id"]) == ("assistant", None, "3")
    assert found.origins == [
        Origin("input[0]"),
        Origin("input[1]"),
        Origin("input[4]", "output"),
        Origin("input[6]"),
    ]


def test_calls_have_the_names_and_arguments_that_the_model_wrote() -> None:
    items: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "1", "namespace": "crm", "name": "find", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "name": "shell", "input": 'echo "é"'},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "é"}]},
        {"type": "local_shell_call", "call_id": "3", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "3", "output": "a.txt"},
        {"type": "shell_call", "call_id": "4", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "4", "output": [{"stdout": "b", "stderr": ""}]},
        {"type": "apply_patch_call", "call_id": "5", "operation": {"type": "delete_file", "path": "x"}},
        {"type": "apply_patch_call_output", "call_id": "5", "status": "completed"},
        {"type": "mcp_call", "id": "6", "name": "ask", "arguments": "{}", "output": "42"},
    ]
    messages = read_items(items).messages
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for message in messages
        for call in message.get("tool_calls", ())
    ]
    assert calls == [
        ("1", "crm__find", {}),
        ("2", "shell", {"input": 'echo "é"'}),
        ("3", "local_shell", {"type": "exec", "command": ["ls"]}),
        ("4", "shell", {"commands": ["ls"]}),
        ("5", "apply_patch", {"type": "delete_file", "path": "x"}),
        ("6", "ask", {}),
    ]
    outputs = [(one["tool_call_id"], one["content"]) for one in messages if one["role"] == "tool"]
    assert outputs == [
        ("2", [{"type": "input_text", "text": "é"}]),
        ("3", "a.txt"),
        ("4", '[{"stdout": "b", "stderr": ""}]'),
        ("5", "completed"),
        ("6", "42"),
    ]


def test_items_of_hosted_tools_are_left_out_and_named() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}
    found = read_items([USER, search, {"type": "tool_search_call"}])
    assert (found.messages, found.left_out) == (
        [USER],
        ["input[1] (web_search_call)", "input[2] (tool_search_call)"],
    )


def test_a_summary_is_what_the_assistant_said() -> None:
    (message,) = read_items([compaction_item("All is well.", "cmp_1")]).messages
    assert message == {"role": "assistant", "content": f"{HEADING}All is well."}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "diary"}, "input[1].type"),
        ({"type": 5}, "input[1].type"),
        ({"type": "function_call", "name": "f"}, "input[1].call_id"),
        ({"type": "function_call", "call_id": "1", "name": 5}, "input[1].name"),
        ({"type": "function_call", "call_id": "1", "name": "f", "arguments": {}}, "input[1].arguments"),
        ({"type": "function_call_output"}, "input[1].call_id"),
        ({"type": "custom_tool_call", "call_id": "1", "name": "f"}, "input[1].input"),
        ({"type": "local_shell_call", "call_id": "1"}, "input[1].action"),
        ({"type": "local_shell_call_output", "output": "a"}, "input[1].call_id"),
        ({"type": "mcp_call", "name": "f"}, "input[1].id"),
        ({"type": "compaction"}, "input[1].encrypted_content"),
        ({"type": "compaction", "encrypted_content": "gAAAAAB"}, "input[1].encrypted_content"),
    ],
)
def test_wrong_items_are_named(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param.replace("[", r"\[")) as caught:
        read_items([USER, item])
    assert caught.value.param == param


def test_an_answer_continues_without_its_reasoning() -> None:
    content = [{"type": "output_text", "text": "Hello"}]
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "content": []},
        {"type": "message", "role": "assistant", "content": content, "status": "completed"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": 1}'},
    ]
    (message,) = from_output(output)
    assert message["content"] == content
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
