"""Translates between items of `/v1/responses` and chat messages."""

from __future__ import annotations

import re
from typing import Any

from trtllm_openai.api.sampling import responses_parameters
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import ResponsesRequest

Message = dict[str, Any]

_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "truncate_prompt_tokens": "truncation",
}


_MESSAGE = re.compile(r"messages\[(\d+)\]")


def to_messages(items: str | list[JsonObject]) -> list[Message]:
    """Convert `input` to chat messages. Raises `InvalidRequest` with the item's JSON path."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Message] = []
    for index, item in enumerate(items):
        json_path = f"input[{index}]"
        match item.get("type", "message"):
            case "message":
                messages.append({key: value for key, value in item.items() if key in ("role", "content")})
            case "function_call":
                _add_call(messages, item, json_path)
            case "function_call_output":
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": _text(item, "call_id", json_path),
                        "content": item.get("output"),
                    }
                )
            case "reasoning":
                pass  # earlier reasoning is not part of the prompt
            case kind:
                raise InvalidRequest(
                    f"'{json_path}.type' must be message, function_call, function_call_output or reasoning, "
                    f"not {kind!r}.",
                    f"{json_path}.type",
                    "unsupported_parameter",
                )
    return messages


def to_chat(body: ResponsesRequest, messages: list[Message]) -> JsonObject:
    """The body of the equivalent chat request."""
    chat: JsonObject = {
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        **responses_parameters(body),
        "timeout": body.timeout,
        "tools": [_nested(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or [])] or None,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text or {}),
        "reasoning_effort": (body.reasoning or {}).get("effort"),
        "truncate_prompt_tokens": -1 if body.truncation == "auto" else None,
    }
    if body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ()):
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return {key: value for key, value in chat.items() if value is not None}


def renamed(param: str | None, before: int) -> str | None:
    """Map a chat parameter to its name in this endpoint. `before`: number of messages before `input`'s."""
    if param is None:
        return None
    if (message := _MESSAGE.match(param)) is not None:
        return f"input[{max(int(message[1]) - before, 0)}]{param[message.end() :]}"
    for chat_name, name in _NAMES.items():
        if param == chat_name or param.startswith((f"{chat_name}.", f"{chat_name}[")):
            return name + param[len(chat_name) :]
    return param


def from_output(output: list[JsonObject]) -> list[Message]:
    """Convert output items to messages, for a request that continues the response."""
    return to_messages([item for item in output if item["type"] != "reasoning"])


def _add_call(messages: list[Message], item: JsonObject, json_path: str) -> None:
    """Add a call to the preceding assistant message, or to a new one."""
    call = {
        "id": _text(item, "call_id", json_path),
        "type": "function",
        "function": {"name": _text(item, "name", json_path), "arguments": item.get("arguments") or "{}"},
    }
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(item: JsonObject, key: str, json_path: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"'{json_path}.{key}' must be a string.", f"{json_path}.{key}", "invalid_type")
    return value


def _nested(tool: JsonObject, json_path: str) -> JsonObject:
    """Convert a tool to chat's format. Raises `InvalidRequest` for tools other than functions."""
    if tool.get("type") != "function":
        raise InvalidRequest(
            f"'{json_path}.type' must be function.", f"{json_path}.type", "unsupported_parameter"
        )
    if "function" in tool:
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _response_format(text: JsonObject) -> JsonObject | None:
    form = text.get("format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}
