"""Messages of the wire as chat templates expect them; faults are refused with their place.

Templates are written for the common case: a role they know and a text. What clients may also send (parts,
`developer`, null content, arguments as JSON text) is brought to that form here.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from trtllm_openai.errors import InvalidRequest

ROLES = {
    "system": "system",
    "developer": "system",  # templates do not know it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Message = dict[str, Any]


def normalise(messages: list[Message]) -> list[Message]:
    """The messages in the form templates expect. Raises `InvalidRequest` naming e.g. `messages[2].role`."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Message, place: str) -> Message:
    if "role" not in message:
        raise InvalidRequest(
            f"Missing required parameter: '{place}.role'.", f"{place}.role", "missing_required_parameter"
        )
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidRequest(f"'{place}.role' must be one of {known}, not {role!r}.", f"{place}.role")
    calls = message.get("tool_calls")
    result = {key: value for key, value in message.items() if value is not None}
    result["role"] = ROLES[role]
    result["content"] = _content(message.get("content"), f"{place}.content", required=role != "assistant")
    if calls:
        result["tool_calls"] = _tool_calls(calls, f"{place}.tool_calls")
    else:
        result.pop("tool_calls", None)
    return result


def _content(content: object, place: str, *, required: bool) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part, f"{place}[{index}]") for index, part in enumerate(content))
    if content is None:
        if not required:
            return ""
        raise InvalidRequest(f"Missing required parameter: '{place}'.", place, "missing_required_parameter")
    raise InvalidRequest(f"'{place}' must be a text or a list of parts.", place, "invalid_type")


def _part(part: object, place: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise InvalidRequest(f"'{place}' must be an object with a type.", place, "invalid_type")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(
            f"Missing required parameter: '{place}.type'.", f"{place}.type", "missing_required_parameter"
        )
    if kind not in TEXT_PARTS:
        raise InvalidRequest(
            f"'{place}' is of the type {kind!r}, but this model takes text only.",
            f"{place}.type",
            "unsupported_parameter",
        )
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        field = f"{place}.{TEXT_PARTS[kind]}"
        raise InvalidRequest(f"'{field}' must be a text.", field, "invalid_type")
    return text


def _tool_calls(calls: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"'{place}' must be a list.", place, "invalid_type")
    return [_tool_call(call, f"{place}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, place: str) -> dict[str, Any]:
    """Arguments become an object where they are one in JSON: templates write them out again."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise InvalidRequest(f"'{place}.function' must be an object.", f"{place}.function", "invalid_type")
    if not isinstance(function.get("name"), str):
        raise InvalidRequest(
            f"Missing required parameter: '{place}.function.name'.",
            f"{place}.function.name",
            "missing_required_parameter",
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # A model's unfinished call, echoed, stays the text it is.
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(arguments)
    return {**call, "function": {**function, "arguments": arguments}}
