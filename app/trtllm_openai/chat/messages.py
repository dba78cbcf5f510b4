"""Validates a client's messages and normalises them for chat templates.

Templates are written for the common case, known roles and string content. Content parts, the role
`developer`, null content and arguments as a JSON string are converted to it. Errors name the JSON path.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from trtllm_openai.errors import InvalidRequest

ROLES = {
    "system": "system",
    "developer": "system",  # unknown to templates
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Message = dict[str, Any]

BILLING_HEADER = "x-anthropic-billing-header:"
"""Begins a line that Claude Code puts at the head of its system prompt. It differs between requests, so that
no two of them would share a cached prefix, and says nothing to a model."""


def normalise(messages: list[Message]) -> list[Message]:
    """Convert messages to the form templates expect. Raises `InvalidRequest`, e.g. for `messages[2].role`."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Message, json_path: str) -> Message:
    if "role" not in message:
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}.role'.",
            f"{json_path}.role",
            "missing_required_parameter",
        )
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidRequest(f"'{json_path}.role' must be one of {known}, not {role!r}.", f"{json_path}.role")
    calls = message.get("tool_calls")
    content = _content(message.get("content"), f"{json_path}.content", required=role != "assistant")
    if content.startswith(BILLING_HEADER) and ROLES[role] == "system":
        content = content.partition("\n")[2]
    result = {key: value for key, value in message.items() if value is not None}
    result["role"] = ROLES[role]
    result["content"] = content
    if calls:
        result["tool_calls"] = _tool_calls(calls, f"{json_path}.tool_calls")
    else:
        result.pop("tool_calls", None)
    return result


def _content(content: object, json_path: str, *, required: bool) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part, f"{json_path}[{index}]") for index, part in enumerate(content))
    if content is None:
        if not required:
            return ""
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}'.", json_path, "missing_required_parameter"
        )
    raise InvalidRequest(f"'{json_path}' must be a text or a list of parts.", json_path, "invalid_type")


def _part(part: object, json_path: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise InvalidRequest(f"'{json_path}' must be an object with a type.", json_path, "invalid_type")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}.type'.",
            f"{json_path}.type",
            "missing_required_parameter",
        )
    if kind not in TEXT_PARTS:
        raise InvalidRequest(
            f"'{json_path}' is of the type {kind!r}, but this model takes text only.",
            f"{json_path}.type",
            "unsupported_parameter",
        )
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        field = f"{json_path}.{TEXT_PARTS[kind]}"
        raise InvalidRequest(f"'{field}' must be a text.", field, "invalid_type")
    return text


def _tool_calls(calls: object, json_path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"'{json_path}' must be a list.", json_path, "invalid_type")
    return [_tool_call(call, f"{json_path}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, json_path: str) -> dict[str, Any]:
    """Decode the arguments from JSON, since templates encode them again."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise InvalidRequest(
            f"'{json_path}.function' must be an object.", f"{json_path}.function", "invalid_type"
        )
    if not isinstance(function.get("name"), str):
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}.function.name'.",
            f"{json_path}.function.name",
            "missing_required_parameter",
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # Incomplete JSON of a truncated call stays a string.
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(arguments)
    return {**call, "function": {**function, "arguments": arguments}}
