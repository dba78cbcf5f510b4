"""`tools` and `tool_choice` of `/v1/responses` as those of a chat, and which of them a call names.

A chat knows functions only. A function of a `namespace` is `<namespace>__<name>` to the model, a `custom`
tool is a function with one string, `input`. Tools that only OpenAI can run (web search, code interpreter,
MCP ...) are left out, and the client is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject

SEPARATOR = "__"
"""Between a namespace and the name of its function."""
INPUT = "input"
"""The argument of a custom tool."""

HOSTED = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_preview",
    }
)
"""Types of tools that OpenAI runs, or that its models alone know how to call; some have dated variants."""


@dataclass(frozen=True, slots=True)
class WireTool:
    """A tool as the client named it."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None

    @property
    def flat_name(self) -> str:
        """Its name to the model."""
        return self.name if self.namespace is None else f"{self.namespace}{SEPARATOR}{self.name}"


NO_TOOLS: Mapping[str, WireTool] = {}


@dataclass(slots=True)
class ToolSet:
    """`chat`: the tools as a chat has them. `json_paths`: the place of each in the request.

    `by_name`: the client's tools by flat name. `left_out`: the others, such as `tools[8] (web_search)`.
    """

    chat: list[JsonObject] = field(default_factory=list)
    json_paths: list[str] = field(default_factory=list)
    by_name: dict[str, WireTool] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, tool: JsonObject, wire: WireTool, json_path: str) -> None:
        """Add a tool in chat's form."""
        self.chat.append(tool)
        self.json_paths.append(json_path)
        self.by_name.setdefault(wire.flat_name, wire)


def read_tools(tools: list[JsonObject] | None) -> ToolSet:
    """Translate `tools`. Raises `InvalidRequest` with the JSON path of one that is not known."""
    found = ToolSet()
    for index, tool in enumerate(tools or []):
        json_path = f"tools[{index}]"
        kind = tool.get("type")
        if kind == "namespace":
            _add_namespace(found, tool, json_path)
        elif kind in ("function", "custom"):
            _add(found, tool, json_path)
        elif isinstance(kind, str) and is_hosted(kind):
            found.left_out.append(f"{json_path} ({kind})")
        else:
            known = "function, custom, namespace or one of OpenAI's own tools"
            raise InvalidRequest(
                f"'{json_path}.type' must be {known}, not {kind!r}.",
                f"{json_path}.type",
                "unsupported_parameter",
            )
    return found


def is_hosted(kind: str) -> bool:
    """Whether tools of this type are OpenAI's own: web_search is, and web_search_2025_08_26."""
    return kind in HOSTED or any(kind.startswith(f"{known}_2") for known in HOSTED)


def read_tool_choice(choice: Any, tools: ToolSet) -> Any:
    """Translate `tool_choice`. Raises `InvalidRequest` for a tool that is not there or cannot be run here."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return _function(_named(choice, tools, "tool_choice"))
    if kind == "allowed_tools":
        return _allowed_tools(choice, tools)
    if isinstance(kind, str) and is_hosted(kind):
        raise InvalidRequest(
            f"'tool_choice' demands a call of {kind}, which this server cannot run.",
            "tool_choice.type",
            "unsupported_parameter",
        )
    raise InvalidRequest(
        f"'tool_choice.type' must be function, custom or allowed_tools, not {kind!r}.", "tool_choice.type"
    )


def _allowed_tools(choice: JsonObject, tools: ToolSet) -> Any:
    allowed = choice.get("allowed_tools", choice)
    mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else None
    entries = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(entries, list) or mode not in ("auto", "required"):
        raise InvalidRequest("'tool_choice' needs a mode, auto or required, and tools.", "tool_choice")
    named = [
        _function(_named(entry, tools, f"tool_choice.tools[{index}]"))
        for index, entry in enumerate(entries)
        if not (isinstance(entry, dict) and is_hosted(str(entry.get("type"))))
    ]
    if named:
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    if mode == "required":
        raise InvalidRequest(
            "'tool_choice' demands a call, but allows no tool that this server can run.", "tool_choice.tools"
        )
    return "none"


def _named(entry: Any, tools: ToolSet, json_path: str) -> str:
    """The flat name of the tool that a choice names."""
    one = entry.get("function", entry) if isinstance(entry, dict) else None
    name = one.get("name") if isinstance(one, dict) else None
    if isinstance(one, dict) and isinstance(one.get("namespace"), str):
        name = f"{one['namespace']}{SEPARATOR}{name}"
    if not isinstance(name, str) or name not in tools.by_name:
        raise InvalidRequest(
            f"'{json_path}.name' is {name!r}, which is not among the tools.", f"{json_path}.name"
        )
    return name


def _function(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name}}


def _add_namespace(found: ToolSet, namespace: JsonObject, json_path: str) -> None:
    name, tools = namespace.get("name"), namespace.get("tools")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"'{json_path}.name' must be a string.", f"{json_path}.name", "invalid_type")
    if not isinstance(tools, list):
        raise InvalidRequest(f"'{json_path}.tools' must be a list.", f"{json_path}.tools", "invalid_type")
    about = namespace.get("description")
    for index, tool in enumerate(tools):
        inner = f"{json_path}.tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
            raise InvalidRequest(
                f"'{inner}.type' must be function or custom.", f"{inner}.type", "unsupported_parameter"
            )
        # The model reads what the namespace is for with the first of its functions.
        _add(found, tool, inner, name, about if index == 0 and isinstance(about, str) else None)


def _add(
    found: ToolSet, tool: JsonObject, json_path: str, namespace: str | None = None, about: str | None = None
) -> None:
    function = tool.get("function") if isinstance(tool.get("function"), dict) else None
    given = function or {key: value for key, value in tool.items() if key in _FUNCTION_KEYS}
    name = given.get("name")
    if not isinstance(name, str):
        raise InvalidRequest(f"'{json_path}.name' must be a string.", f"{json_path}.name", "invalid_type")
    custom = tool["type"] == "custom"
    wire = WireTool("custom" if custom else "function", name, namespace)
    chat = {**given, "name": wire.flat_name}
    if custom:
        chat |= _custom(tool, json_path)
    if about:
        chat["description"] = "\n".join(filter(None, [about, chat.get("description")]))
    place = f"{json_path}.function" if function is not None else json_path
    found.add({"type": "function", "function": chat}, wire, place)


_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})


def _custom(tool: JsonObject, json_path: str) -> JsonObject:
    """Description and parameters of the function that stands for a custom tool.

    A regular expression is a pattern of the parameter, which holds wherever arguments are constrained. A Lark
    grammar is described to the model only: it cannot be written as a JSON schema.
    """
    form = tool.get("format") or {"type": "text"}
    parameter: JsonObject = {"type": "string"}
    described = [str(tool.get("description") or "")]
    match form:
        case {"type": "text"}:
            pass
        case {"type": "grammar", "syntax": "regex", "definition": str(pattern)}:
            parameter["pattern"] = f"^(?:{pattern})$"
            described.append(f"The input matches this regular expression: {pattern}")
        case {"type": "grammar", "syntax": "lark", "definition": str(grammar)}:
            described.append(f"The input follows this Lark grammar:\n{grammar}")
        case _:
            raise InvalidRequest(
                f"'{json_path}.format' must be of the type text, or a grammar with a definition and the "
                "syntax lark or regex.",
                f"{json_path}.format",
            )
    return {
        "description": "\n".join(filter(None, described)),
        "parameters": {
            "type": "object",
            "properties": {INPUT: parameter},
            "required": [INPUT],
            "additionalProperties": False,
        },
    }
