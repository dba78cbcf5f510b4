"""tools and tool_choice: what the model is told of, what is demanded, and what is refused by its place."""

from typing import Any

import jsonschema
import pytest

from trtllm_openai.chat.tools import NO_TOOLS, plan_tools
from trtllm_openai.errors import InvalidRequest


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {"type": "object"}}}


TOOLS = [tool("a"), tool("b")]
UNTYPED = {"type": "function", "function": {"name": "a", "parameters": 1}}


@pytest.mark.parametrize("choice", ["none", None, "auto"])
def test_no_call_is_demanded(choice: str | None) -> None:
    plan = plan_tools(TOOLS, choice, None)
    assert plan.schema is None
    assert plan.names == (frozenset() if choice == "none" else {"a", "b"})
    assert plan_tools(None, choice, None) == NO_TOOLS


def test_required_demands_one_call_or_more_of_any_tool() -> None:
    plan = plan_tools(TOOLS, "required", None)
    assert plan.schema is not None
    calls = [{"name": "b", "arguments": {}}, {"name": "a", "arguments": {"x": 1}}]
    jsonschema.validate(calls, plan.schema)
    for wrong in ([], [{"name": "c", "arguments": {}}], [{"name": "a"}], {"name": "a", "arguments": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, plan.schema)


@pytest.mark.parametrize(
    ("choice", "parallel"),
    [("required", False), ({"type": "function", "function": {"name": "a"}}, None)],
)
def test_one_call_at_most(choice: Any, parallel: bool | None) -> None:
    plan = plan_tools(TOOLS, choice, parallel)
    assert not plan.parallel
    assert plan.schema is not None
    call = {"name": "a", "arguments": {}}
    jsonschema.validate([call], plan.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([call, call], plan.schema)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_narrow_the_choice(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "b"}}]}
    plan = plan_tools(TOOLS, {"type": "allowed_tools", "allowed_tools": allowed}, None)
    assert plan.names == {"b"}
    assert (plan.schema is not None) == (mode == "required")


def test_references_of_a_tools_schema_follow_it_to_its_new_place() -> None:
    parameters = {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/node"}},
        "required": ["tree"],
        "$defs": {"node": {"properties": {"child": {"$ref": "#/$defs/node"}}, "required": ["v"]}},
    }  # fmt: skip
    plan = plan_tools([tool("a"), tool("grow", **parameters)], "required", None)
    assert plan.schema is not None
    jsonschema.validate([{"name": "grow", "arguments": {"tree": {"v": 1, "child": {"v": 2}}}}], plan.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": "grow", "arguments": {"tree": {"v": 1, "child": {}}}}], plan.schema)


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([tool("a"), tool("no spaces")], None, "tools[1].function.name"),
        ([tool("a"), tool("a")], None, "tools[1].function.name"),
        ([UNTYPED], None, "tools[0].function.parameters"),
        (None, "required", "tool_choice"),
        (TOOLS, "always", "tool_choice"),
        (TOOLS, 1, "tool_choice"),
        (TOOLS, {"type": "other"}, "tool_choice.type"),
        (TOOLS, {"type": "function", "function": {"name": "c"}}, "tool_choice.function.name"),
        (TOOLS, {"type": "allowed_tools", "allowed_tools": {"mode": "no", "tools": []}}, "tool_choice"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan_tools(tools, choice, None)
    assert caught.value.param == param
