"""The tools whose calls are held to their schemas where the model may call, as a guide has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from trtllm_openai.api.guides import schema_guide
from trtllm_openai.chat import ToolPlan
from trtllm_openai.chat.parsers.call_forms import PARAM, CallableTool, json_part
from trtllm_openai.chat.parsers.references import rebased
from trtllm_openai.chat.parsers.tag_forms import OPTIONS
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest

Strictness = Literal["auto", "all", "none"]
"""The tools whose calls are held to their schemas where no call is required: all as far as that can be done,
all, or only those with `strict: true`."""


def placed_tools(tools: ToolPlan) -> Iterator[tuple[int, dict[str, Any]]]:
    """The tools with their places in the client's list."""
    return zip(tools.places, tools.tools, strict=True)


def must_hold(body: ChatRequest, tools: ToolPlan, strictness: Strictness) -> bool:
    """Whether calls of some tool must be held to its schema."""
    return (body.tool_strict or strictness) == "all" or any(map(is_strict, tools.tools))


def held_tools(
    body: ChatRequest, tools: ToolPlan, strictness: Strictness, *, endless: bool
) -> list[CallableTool]:
    """The tools that calls under `auto` are held to; none where they are not held.

    `endless`: the answer may go on after a call, so that `min_tokens` and `ignore_eos` can hold.
    """
    strictness = body.tool_strict or strictness
    demanded = must_hold(body, tools, strictness)
    if not demanded and strictness == "none":
        return []
    if (body.min_tokens or vars(body)["ignore_eos"]) and not endless:
        if demanded:
            name = "min_tokens" if body.min_tokens else "ignore_eos"
            raise InvalidRequest(f"{name} cannot be combined with one strict call.", name)
        return []
    held = []
    for index, tool in placed_tools(tools):
        strict = strictness == "all" or is_strict(tool)
        held.append(callable_tool(tool, index, lenient=not strict, held=strict or strictness != "none"))
    return held


def is_strict(tool: dict[str, Any]) -> bool:
    """Whether the client asks for arguments that have the tool's schema."""
    return tool["function"].get("strict") is True


def callable_tool(tool: dict[str, Any], index: int, *, lenient: bool, held: bool = True) -> CallableTool:
    """A tool whose arguments have the schema of its parameters; `lenient`: without what cannot be enforced.

    Raises `InvalidRequest` for a schema that is none; a lenient one is then any object.
    """
    function = tool["function"]
    schema = function.get("parameters") or {}
    param = f"tools[{index}].function.parameters"
    if lenient:
        try:
            schema_guide(schema, param)
        except InvalidRequest:
            held = False
    else:
        schema_guide(schema, param)
    schema = {"type": "object", **rebased(schema)} if held else {"type": "object"}
    if lenient:
        schema = {**schema, OPTIONS: {"lenient": True}}
    return CallableTool(function["name"], {**json_part(schema), PARAM: param})
