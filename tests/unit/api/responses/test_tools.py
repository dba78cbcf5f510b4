"""Tools of /v1/responses as functions of a chat."""

from typing import Any

import pytest

from trtllm_openai.api.responses.tools import WireTool, read_tool_choice, read_tools
from trtllm_openai.chat.tools import plan_tools
from trtllm_openai.errors import InvalidRequest

SCHEMA = {"type": "object", "properties": {"id": {"type": "integer"}}}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True, "async": True},
    {"type": "web_search", "external_web_access": False},
    {
        "type": "namespace",
        "name": "crm",
        "description": "Customers.",
        "tools": [
            {"type": "function", "name": "find", "description": "Find one.", "parameters": SCHEMA},
            {"type": "custom", "name": "note"},
        ],
    },
    {"type": "custom", "name": "shell", "description": "Run it.", "format": {"type": "text"}},
    {"type": "web_search_preview_2025_03_11"},
    {"type": "mcp", "server_label": "x"},
]


def test_each_kind_is_a_function() -> None:
    found = read_tools(TOOLS)
    functions = [tool["function"] for tool in found.chat]
    assert [one["name"] for one in functions] == ["f", "crm__find", "crm__note", "shell"]
    assert functions[0] == {"name": "f", "parameters": SCHEMA, "strict": True}
    assert functions[1]["description"] == "Customers.\nFind one."
    assert functions[3]["description"] == "Run it."
    assert functions[3]["parameters"]["required"] == ["input"]
    assert found.json_paths == ["tools[0]", "tools[2].tools[0]", "tools[2].tools[1]", "tools[3]"]
    assert found.left_out == [
        "tools[1] (web_search)",
        "tools[4] (web_search_preview_2025_03_11)",
        "tools[5] (mcp)",
    ]
    assert found.by_name["crm__note"] == WireTool("custom", "note", "crm")
    assert len(plan_tools(found.chat, "auto", None).tools) == 4


def test_the_form_of_chat_is_taken_too() -> None:
    nested = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    found = read_tools([nested])
    assert (found.chat, found.json_paths) == ([nested], ["tools[0].function"])


@pytest.mark.parametrize(
    ("form", "pattern", "told"),
    [
        ({"type": "grammar", "syntax": "regex", "definition": "a|b+"}, "^(?:a|b+)$", "a|b+"),
        ({"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}, None, 'start: "a"'),
        ({"type": "text"}, None, ""),
    ],
)
def test_grammars_of_custom_tools(form: dict[str, str], pattern: str | None, told: str) -> None:
    (tool,) = read_tools([{"type": "custom", "name": "c", "format": form}]).chat
    function = tool["function"]
    assert function["parameters"]["properties"]["input"].get("pattern") == pattern
    assert told in function["description"]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "teleport"}, "tools[0].type"),
        ({}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "custom", "name": 5}, "tools[0].name"),
        ({"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "bnf"}}, "tools[0].format"),
        ({"type": "custom", "name": "c", "format": "text"}, "tools[0].format"),
        ({"type": "namespace", "tools": []}, "tools[0].name"),
        ({"type": "namespace", "name": "n"}, "tools[0].tools"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}, "tools[0].tools[0].type"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]}, "tools[0].tools[0].name"),
    ],
)
def test_wrong_tools_are_named(tool: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tools([tool])
    assert caught.value.param == param
    assert param in str(caught.value)


def named(*names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        (None, None),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "custom", "name": "shell"}, {"type": "function", "function": {"name": "shell"}}),
        (
            {"type": "function", "name": "find", "namespace": "crm"},
            {"type": "function", "function": {"name": "crm__find"}},
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [
                    {"type": "function", "name": "f"},
                    {"type": "mcp", "server_label": "x"},
                    {"type": "custom", "name": "shell"},
                ],
            },
            named("f", "shell"),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "none"),
    ],
)
def test_tool_choices(choice: object, chat: object) -> None:
    found = read_tools(TOOLS)
    assert read_tool_choice(choice, found) == chat
    plan_tools(found.chat, chat, None)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "name": "g"}, "tool_choice.name"),
        ({"type": "custom"}, "tool_choice.name"),
        ({"type": "web_search_preview"}, "tool_choice.type"),
        ({"type": "mcp", "server_label": "x"}, "tool_choice.type"),
        ({"type": "sometimes"}, "tool_choice.type"),
        ({"type": "allowed_tools", "mode": "never", "tools": []}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"name": "g"}]}, "tool_choice.tools[0].name"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]}, "tool_choice.tools"),
    ],
)
def test_wrong_choices_are_named(choice: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tool_choice(choice, read_tools(TOOLS))
    assert caught.value.param == param
