"""Between the items of `/v1/responses` and the messages of a chat."""

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
    """The messages that `input` stands for. Raises `InvalidRequest` naming the item."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Message] = []
    for index, item in enumerate(items):
        place = f"input[{index}]"
        match item.get("type", "message"):
            case "message":
                messages.append({key: value for key, value in item.items() if key in ("role", "content")})
            case "function_call":
                _add_call(messages, item, place)
            case "function_call_output":
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": _text(item, "call_id", place),
                        "content": item.get("output"),
                    }
                )
            case "reasoning":
                pass  # thinking is not shown to the model again
            case kind:
                raise InvalidRequest(
                    f"'{place}.type' must be message, function_call, function_call_output or reasoning, "
                    f"not {kind!r}.",
                    f"{place}.type",
                    "unsupported_parameter",
                )
    return messages


def to_chat(body: ResponsesRequest, messages: list[Message]) -> JsonObject:
    """The body of the chat request that asks the same."""
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
    """A chat parameter by the name it has here. `before`: messages that precede those of `input`."""
    if param is None:
        return None
    if (message := _MESSAGE.match(param)) is not None:
        return f"input[{max(int(message[1]) - before, 0)}]{param[message.end() :]}"
    for chat_name, name in _NAMES.items():
        if param == chat_name or param.startswith((f"{chat_name}.", f"{chat_name}[")):
            return name + param[len(chat_name) :]
    return param


def from_output(output: list[JsonObject]) -> list[Message]:
    """An answer's items as messages, for the request that follows it."""
    return to_messages([item for item in output if item["type"] != "reasoning"])


def _add_call(messages: list[Message], item: JsonObject, place: str) -> None:
    """Calls that follow each other, or a text of the assistant, belong to one message."""
    call = {
        "id": _text(item, "call_id", place),
        "type": "function",
        "function": {"name": _text(item, "name", place), "arguments": item.get("arguments") or "{}"},
    }
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(item: JsonObject, key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"'{place}.{key}' must be a text.", f"{place}.{key}", "invalid_type")
    return value


def _nested(tool: JsonObject, place: str) -> JsonObject:
    """A tool as chat writes it; other kinds than functions are refused there."""
    if tool.get("type") != "function":
        raise InvalidRequest(f"'{place}.type' must be function.", f"{place}.type", "unsupported_parameter")
    if "function" in tool:
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _response_format(text: JsonObject) -> JsonObject | None:
    form = text.get("format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}
