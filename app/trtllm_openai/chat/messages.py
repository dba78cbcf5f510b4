"""Validates a client's messages and normalises them for chat templates.

Templates are written for the common case, string content and the roles and fields of today. Content parts,
the role `developer`, null content, arguments as a JSON string, and the `function_call` and role `function`
that preceded tool calls are converted to it. Other roles are the template's to know. Errors name the JSON
path.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec

from trtllm_openai.errors import InvalidRequest

DEVELOPER = "developer"
MAX_ROLE = 64
"""Characters of a role."""
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Message = dict[str, Any]

BILLING_HEADER = "x-anthropic-billing-header:"
"""Begins a line that Claude Code puts at the head of its system prompt. It differs between requests, so that
no two of them would share a cached prefix, and says nothing to a model."""


def knows_developer(template: str) -> bool:
    """Whether the source of a chat template speaks of the role `developer`; elsewhere it is `system`."""
    return re.search(f"""['"]{DEVELOPER}['"]""", template) is not None


def normalise(messages: list[Message], *, developer: bool = False) -> list[Message]:
    """Convert messages to the form templates expect. Raises `InvalidRequest`, e.g. for `messages[2].role`.

    `developer`: the template knows that role.
    """
    normal: list[Message] = []
    call_id = None
    for index, message in enumerate(messages):
        json_path = f"messages[{index}]"
        role = _role(message, json_path)
        made = _message(message, role, json_path)
        if role == "assistant" and not message.get("tool_calls") and message.get("function_call"):
            call_id = f"{index:09}"  # nine characters, which is what Mistral's templates demand
            made["tool_calls"] = [_legacy_call(message["function_call"], call_id, json_path)]
        elif role == "function":
            made["role"] = "tool"
            if call_id is not None:
                made.setdefault("tool_call_id", call_id)
        elif role == DEVELOPER and not developer:
            made["role"] = "system"
        made.pop("function_call", None)
        normal.append(made)
    return normal


def _role(message: Message, json_path: str) -> str:
    if "role" not in message:
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}.role'.",
            f"{json_path}.role",
            "missing_required_parameter",
        )
    role = message["role"]
    if not isinstance(role, str) or not 0 < len(role) <= MAX_ROLE:
        raise InvalidRequest(
            f"'{json_path}.role' must be a string of 1 to {MAX_ROLE} characters.", f"{json_path}.role"
        )
    return role


def _message(message: Message, role: str, json_path: str) -> Message:
    calls = message.get("tool_calls")
    content = _content(message.get("content"), f"{json_path}.content", required=role != "assistant")
    if content.startswith(BILLING_HEADER) and role in ("system", DEVELOPER):
        content = content.partition("\n")[2]
    result = {key: value for key, value in message.items() if value is not None}
    result["role"] = role
    result["content"] = content
    if isinstance(result.get("reasoning"), str):
        result.setdefault("reasoning_content", result["reasoning"])
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
    whole = call if isinstance(call, dict) else {}
    return {**whole, "function": _function(whole.get("function"), f"{json_path}.function")}


def _legacy_call(function: object, call_id: str, json_path: str) -> dict[str, Any]:
    """The tool call that a `function_call` is today."""
    return {"id": call_id, "type": "function", "function": _function(function, f"{json_path}.function_call")}


def _function(function: object, json_path: str) -> dict[str, Any]:
    """Name and arguments, these decoded from JSON, since templates encode them again."""
    if not isinstance(function, dict):
        raise InvalidRequest(f"'{json_path}' must be an object.", json_path, "invalid_type")
    if not isinstance(function.get("name"), str):
        raise InvalidRequest(
            f"Missing required parameter: '{json_path}.name'.",
            f"{json_path}.name",
            "missing_required_parameter",
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # Incomplete JSON of a truncated call stays a string.
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(arguments)
    return {**function, "arguments": arguments}
