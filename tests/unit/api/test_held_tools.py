"""Which tools' calls are held to their schemas, and with which schema."""

from typing import Any

import pytest

from trtllm_openai.api.held_tools import callable_tool, held_tools
from trtllm_openai.chat import plan_tools
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest

SCHEMA = {"properties": {"a": {"type": "integer"}}}
PLAIN: dict[str, Any] = {"type": "function", "function": {"name": "p", "parameters": SCHEMA}}
STRICT: dict[str, Any] = {
    "type": "function",
    "function": {"name": "s", "parameters": SCHEMA, "strict": True},
}
OBJECT = {"type": "object"}
LENIENT = {"x-guidance": {"lenient": True}}


def schemas(*tools: dict[str, Any], endless: bool = True, **fields: Any) -> dict[str, Any]:
    """The schemas that the calls of each tool are held to."""
    body = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "x"}], "tools": list(tools), **fields}
    )
    plan = plan_tools(body.tools, None, None)
    return {tool.name: tool.schema for tool in held_tools(body, plan, "auto", endless=endless)}


@pytest.mark.parametrize(
    ("strictness", "held"),
    [
        ("auto", {"p": {**OBJECT, **SCHEMA, **LENIENT}, "s": {**OBJECT, **SCHEMA}}),
        ("all", {"p": {**OBJECT, **SCHEMA}, "s": {**OBJECT, **SCHEMA}}),
        ("none", {"p": {**OBJECT, **LENIENT}, "s": {**OBJECT, **SCHEMA}}),
    ],
)
def test_what_each_tool_is_held_to(strictness: str, held: dict[str, Any]) -> None:
    assert schemas(PLAIN, STRICT, tool_strict=strictness) == held


def test_none_is_held_without_a_strict_tool() -> None:
    assert schemas(PLAIN, tool_strict="none") == {}


@pytest.mark.parametrize("field", ["min_tokens", "ignore_eos"])
def test_an_answer_that_ends_with_a_call_has_no_shortest_length(field: str) -> None:
    assert schemas(PLAIN, endless=False, **{field: 3 if field == "min_tokens" else True}) == {}
    with pytest.raises(InvalidRequest) as caught:
        schemas(STRICT, endless=False, **{field: 3 if field == "min_tokens" else True})
    assert caught.value.param == field


def test_a_schema_that_is_none() -> None:
    odd = {"type": "function", "function": {"name": "o", "parameters": {"type": 5}}}
    assert callable_tool(odd, 2, lenient=True).schema == {**OBJECT, **LENIENT}
    with pytest.raises(InvalidRequest) as caught:
        callable_tool(odd, 2, lenient=False)
    assert caught.value.param == "tools[2].function.parameters.type"
