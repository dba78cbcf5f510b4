"""Validates `tools` and `tool_choice`; for a required call, builds the JSON schema that enforces it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trtllm_openai.chat.parsers.references import rebased
from trtllm_openai.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The tools in the prompt, and the constraints on the response.

    `schema`: if a call is required, the schema of the whole response, an array of calls; `origins`: the JSON
    path in it of each tool's parameters, and theirs in the request. `parallel`: several calls are allowed.
    `places`: the index of each tool in the client's list.
    """

    tools: tuple[Tool, ...] = ()
    schema: dict[str, Any] | None = None
    origins: tuple[tuple[str, str], ...] = ()
    parallel: bool = True
    places: tuple[int, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools that may be called."""
        return frozenset(self.schemas)

    @property
    def schemas(self) -> dict[str, Any]:
        """The schema of each tool's parameters, by the tool's name; None where it has none."""
        return {tool["function"]["name"]: tool["function"].get("parameters") for tool in self.tools}


NO_TOOLS = ToolPlan()


def plan_tools(tools: list[Tool] | None, choice: object, parallel: bool | None) -> ToolPlan:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`. Raises `InvalidRequest` with the JSON path."""
    known = {}
    for index, tool in enumerate(tools or []):
        name = _check_tool(tool, f"tools[{index}]")
        if name in known:
            json_path = f"tools[{index}].function.name"
            raise InvalidRequest(f"'{json_path}' is {name!r}, as that of another tool.", json_path)
        known[name] = tool
    mode, names = _read_choice(choice, known)
    if mode == "none" or not known:
        if mode == "required":
            raise InvalidRequest("tool_choice requires a call, but there are no tools.", "tool_choice")
        return NO_TOOLS
    chosen = {
        index: tool for index, (name, tool) in enumerate(known.items()) if names is None or name in names
    }
    several = parallel is not False and not (isinstance(choice, dict) and choice.get("type") == "function")
    schema = None
    origins: tuple[tuple[str, str], ...] = ()
    if mode == "required":
        schema = _calls_schema(chosen, several=several)
        origins = tuple((f".$defs.tool_{i}", f"tools[{i}].function.parameters") for i in chosen)
    return ToolPlan(tuple(chosen.values()), schema, origins, several, tuple(chosen))


def _check_tool(tool: object, json_path: str) -> str:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise InvalidRequest(
            f"'{json_path}.type' must be function.", f"{json_path}.type", "unsupported_parameter"
        )
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"'{json_path}.function.name' must be 1 to 128 letters, digits, _, - or dots.",
            f"{json_path}.function.name",
        )
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(
            f"'{json_path}.function.parameters' must be a JSON schema.", f"{json_path}.function.parameters"
        )
    return name


def _read_choice(choice: object, known: dict[str, Tool]) -> tuple[str, frozenset[str] | None]:
    """The mode (none, auto or required), and the allowed names; None allows all."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidRequest(
                f"'tool_choice' must be none, auto, required or an object, not {choice!r}.", "tool_choice"
            )
        return choice, None
    if not isinstance(choice, dict):
        raise InvalidRequest("'tool_choice' must be a text or an object.", "tool_choice", "invalid_type")
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        entries = allowed.get("tools") if isinstance(allowed, dict) else None
        if not isinstance(entries, list) or allowed.get("mode", "auto") not in ("auto", "required"):
            raise InvalidRequest("'tool_choice.allowed_tools' needs a mode and tools.", "tool_choice")
        names = [_named(entry, known) for entry in entries]
        return allowed.get("mode", "auto"), frozenset(names)
    if choice.get("type") != "function":
        raise InvalidRequest("'tool_choice.type' must be function or allowed_tools.", "tool_choice.type")
    return "required", frozenset([_named(choice, known)])


def _named(entry: object, known: dict[str, Tool]) -> str:
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in known:
        raise InvalidRequest(
            f"'tool_choice.function.name' is {name!r}, which is not among the tools.",
            "tool_choice.function.name",
        )
    return name


def _calls_schema(tools: dict[int, Tool], *, several: bool) -> dict[str, Any]:
    """JSON schema of an array with exactly one call, or with `several` at least one."""
    calls, definitions = [], {}
    for index, tool in tools.items():
        function = tool["function"]
        key = f"tool_{index}"
        definitions[key] = rebased(function.get("parameters") or {"type": "object"}, f"#/$defs/{key}")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{key}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = {
        "type": "array",
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "minItems": 1,
        "$defs": definitions,
    }
    return schema if several else {**schema, "maxItems": 1}
