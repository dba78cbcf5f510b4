"""Items of `/v1/responses` as chat messages: what a client sends as `input`, and output that is continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtllm_openai.api.responses.compaction import summary_message
from trtllm_openai.api.responses.names import Origin
from trtllm_openai.api.responses.tools import INPUT, WireTool
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject

Message = dict[str, Any]

NO_TEXT = frozenset(
    {
        "code_interpreter_call",
        "computer_call",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "program",
        "program_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""Items about tools that OpenAI runs, which hold nothing that this model could have said or read."""


@dataclass(slots=True)
class Messages:
    """`messages` of a chat, and the `origins` of each. `left_out`: items that are no part of the prompt."""

    messages: list[Message] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, message: Message, json_path: str, content: str = "content") -> None:
        """Add a message whose content was the field `content` of an item."""
        self.messages.append(message)
        self.origins.append(Origin(json_path, content))

    def add_call(self, call_id: str, name: str, arguments: str, json_path: str) -> None:
        """Add a call to the preceding assistant message, or to a new one."""
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        last = self.messages[-1] if self.messages else None
        if last is not None and last.get("role") == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            self.add({"role": "assistant", "content": None, "tool_calls": [call]}, json_path)


def read_items(items: str | Sequence[JsonObject]) -> Messages:
    """Translate `input`. Raises `InvalidRequest` with the item's JSON path."""
    found = Messages()
    if isinstance(items, str):
        found.add({"role": "user", "content": items}, "input")
        return found
    for index, item in enumerate(items):
        json_path = f"input[{index}]"
        kind = item.get("type") or "message"
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is not None:
            read(found, item, json_path)
        elif isinstance(kind, str) and kind in NO_TEXT:
            found.left_out.append(f"{json_path} ({kind})")
        else:
            raise InvalidRequest(
                f"'{json_path}.type' is {kind!r}, which this server does not know.",
                f"{json_path}.type",
                "unsupported_parameter",
            )
    return found


def from_output(output: list[JsonObject]) -> list[Message]:
    """Output items as messages, for a request that continues the response."""
    return read_items(output).messages


def _message(found: Messages, item: JsonObject, json_path: str) -> None:
    found.add({key: value for key, value in item.items() if key in ("role", "content")}, json_path)


def _function_call(found: Messages, item: JsonObject, json_path: str) -> None:
    arguments = item.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        raise _not_text(f"{json_path}.arguments")
    found.add_call(_text(item, "call_id", json_path), _name(item, json_path), arguments or "{}", json_path)


def _custom_call(found: Messages, item: JsonObject, json_path: str) -> None:
    arguments = json.dumps({INPUT: _text(item, "input", json_path)}, ensure_ascii=False)
    found.add_call(_text(item, "call_id", json_path), _name(item, json_path), arguments, json_path)


def _local_call(name: str, action: str) -> Callable[[Messages, JsonObject, str], None]:
    """A call that the client itself executed, of a tool that OpenAI's models know without a schema."""

    def read(found: Messages, item: JsonObject, json_path: str) -> None:
        arguments = item.get(action)
        if not isinstance(arguments, dict):
            raise InvalidRequest(
                f"'{json_path}.{action}' must be an object.", f"{json_path}.{action}", "invalid_type"
            )
        found.add_call(_call_id(item, json_path), name, json.dumps(arguments, ensure_ascii=False), json_path)

    return read


def _output(found: Messages, item: JsonObject, json_path: str) -> None:
    output = item.get("output")
    found.add(
        {"role": "tool", "tool_call_id": _text(item, "call_id", json_path), "content": output},
        json_path,
        "output",
    )


def _local_output(found: Messages, item: JsonObject, json_path: str) -> None:
    output = item.get("output")
    if output is None:
        output = str(item.get("status") or "")
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    message = {"role": "tool", "tool_call_id": _call_id(item, json_path), "content": text}
    found.add(message, json_path, "output")


def _mcp_call(found: Messages, item: JsonObject, json_path: str) -> None:
    """A call that OpenAI made for its model: both the call and what came back are in the item."""
    call_id = _text(item, "id", json_path)
    _function_call(found, {**item, "call_id": call_id}, json_path)
    output = item.get("output") or item.get("error") or ""
    _local_output(found, {"call_id": call_id, "output": output}, json_path)


def _reasoning(found: Messages, item: JsonObject, json_path: str) -> None:
    """Earlier reasoning is not part of the prompt."""


def _compaction(found: Messages, item: JsonObject, json_path: str) -> None:
    content = _text(item, "encrypted_content", json_path)
    found.add(summary_message(content, f"{json_path}.encrypted_content"), json_path, "encrypted_content")


_READERS: dict[str, Callable[[Messages, JsonObject, str], None]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
    "local_shell_call": _local_call("local_shell", "action"),
    "local_shell_call_output": _local_output,
    "shell_call": _local_call("shell", "action"),
    "shell_call_output": _local_output,
    "apply_patch_call": _local_call("apply_patch", "operation"),
    "apply_patch_call_output": _local_output,
    "mcp_call": _mcp_call,
    "reasoning": _reasoning,
    "compaction": _compaction,
    "compaction_summary": _compaction,
}


def _name(item: JsonObject, json_path: str) -> str:
    """The name by which the model made the call."""
    name, namespace = _text(item, "name", json_path), item.get("namespace")
    return WireTool("function", name, namespace if isinstance(namespace, str) else None).flat_name


def _call_id(item: JsonObject, json_path: str) -> str:
    """A local shell's output names its call by `id`."""
    key = "id" if item.get("call_id") is None and item.get("id") is not None else "call_id"
    return _text(item, key, json_path)


def _text(item: JsonObject, key: str, json_path: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise _not_text(f"{json_path}.{key}")
    return value


def _not_text(json_path: str) -> InvalidRequest:
    return InvalidRequest(f"'{json_path}' must be a string.", json_path, "invalid_type")
