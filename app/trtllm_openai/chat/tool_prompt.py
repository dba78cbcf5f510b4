"""Tools for chat templates without tool support: described in the prompt, in the Hermes format."""

from __future__ import annotations

import json
from typing import Any

from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.tools import Tool

INTRODUCTION = """\
You may call functions to help with the user's request. Their signatures, one JSON object a line:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as a JSON object between tags, once for each call:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def without_tools(messages: list[Message], tools: tuple[Tool, ...]) -> list[Message]:
    """Rewrite tools, tool calls and tool results as text of system, user and assistant messages."""
    result = [_plain(message) for message in messages]
    if not tools:
        return result
    listed = "\n".join(_json(tool) for tool in tools)
    introduction = INTRODUCTION.format(tools=listed)
    if result and result[0]["role"] == "system":
        first = {**result[0], "content": f"{result[0]['content']}\n\n{introduction}"}
        return [first, *result[1:]]
    return [{"role": "system", "content": introduction}, *result]


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [
        "<tool_call>\n"
        + _json({"name": call["function"]["name"], "arguments": call["function"]["arguments"]})
        + "\n</tool_call>"
        for call in message["tool_calls"]
    ]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": "\n".join([*filter(None, [message["content"]]), *calls])}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
