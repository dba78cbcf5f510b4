"""The form in which a chat template takes earlier calls, tools and thinking, if it is not the common one.

Most take a call's arguments as an object; DeepSeek's add them to text, and so need text. Some write a message
twice that has calls and empty content instead of none. gpt-oss reads one call of a message, and the key
`thinking`; Phi-4-mini reads the tools from the system message. What can be seen in a rendering is tried out
on a short conversation when the model is loaded, the rest is told by the template's source.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.sandbox import LongRendering
from trtllm_openai.chat.template import ChatTemplate
from trtllm_openai.chat.tools import Tool
from trtllm_openai.errors import InvalidRequest

STEPS = 2000
"""Bound of a trial: iterations of loops and calls of macros."""
ONE_CALL = re.compile(r"tool_calls\s*\[\s*0\s*\]")
THINKING = re.compile(r"message(?:\.thinking\b|\[['\"]thinking['\"]\])")
TOOLS_OF_MESSAGE = re.compile(r"message(?:\.tools\b|\[['\"]tools['\"]\])")
TOOLS_VARIABLE = re.compile(r"(?<![\w.'\"])tools(?![\w'\"])")


@dataclass(frozen=True, slots=True)
class History:
    """The form of the history that a template takes.

    `arguments_as_text`: a call's arguments as JSON text. `no_content`: null content beside calls, not empty
    text. `one_call`: one call in a message. `thinking`: reasoning under this key too. `tools_of_message`: the
    tools, as JSON text, in the system message.
    """

    arguments_as_text: bool = False
    no_content: bool = False
    one_call: bool = False
    thinking: bool = False
    tools_of_message: bool = False

    def adapted(self, messages: list[Message], tools: tuple[Tool, ...]) -> list[Message]:
        """Normalised messages as the template wants them."""
        if self == AS_NORMALISED:
            return messages
        result = self._with_tools(messages, tools) if tools and self.tools_of_message else messages
        if self.one_call:
            result = _one_call_each(result)
        return [self._message(message) for message in result]

    def _with_tools(self, messages: list[Message], tools: tuple[Tool, ...]) -> list[Message]:
        text = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        if messages and messages[0]["role"] == "system":
            return [{**messages[0], "tools": text}, *messages[1:]]
        return [{"role": "system", "content": "", "tools": text}, *messages]

    def _message(self, message: Message) -> Message:
        if message["role"] != "assistant":
            return message
        changed = dict(message)
        if self.thinking and not message.get("content") and isinstance(message.get("reasoning_content"), str):
            changed.setdefault("thinking", message["reasoning_content"])
        if message.get("tool_calls"):
            if self.no_content and not message["content"]:
                changed["content"] = None
            if self.arguments_as_text:
                changed["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
        return changed


AS_NORMALISED = History()
"""The form that most templates take."""


def wanted_history(template: ChatTemplate, source: str) -> History:
    """The form that a template with this source takes."""
    one_call, thinking = bool(ONE_CALL.search(source)), bool(THINKING.search(source))
    of_message = bool(TOOLS_OF_MESSAGE.search(source)) and not TOOLS_VARIABLE.search(_code(source))
    if "tool_calls" not in source:
        return History(thinking=thinking, tools_of_message=of_message)
    as_object = _trial(template, {"argument": "value"})
    as_text = _trial(template, '{"argument": "value"}')
    needs_text = as_text is not None and (as_object is None or "{'argument'" in as_object)
    best = as_text if needs_text else as_object
    without = _trial(template, '{"argument": "value"}' if needs_text else {"argument": "value"}, content=None)
    no_content = without is not None and "None" not in without and (best is None or len(without) < len(best))
    return History(needs_text, no_content, one_call, thinking, of_message)


def _trial(template: ChatTemplate, arguments: Any, content: str | None = "") -> str | None:
    """A rendering of a conversation with one call; None if the template refuses it."""
    call = {"id": "call00001", "type": "function", "function": {"name": "tool", "arguments": arguments}}
    messages: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "Yes", "tool_call_id": "call00001", "name": "tool"},
    ]
    try:
        return template.render(messages, {"tools": None}, steps=STEPS)
    except (InvalidRequest, LongRendering):
        return None


def _code(source: str) -> str:
    """The expressions and statements of a template, without its text and string literals."""
    code = " ".join(re.findall(r"\{[{%](.*?)[}%]\}", source, re.DOTALL))
    return re.sub(r"'[^']*'|\"[^\"]*\"", "''", code)


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return call
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _one_call_each(messages: list[Message]) -> list[Message]:
    """A message with several calls as several messages, each followed by its own results."""
    result: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            result.append(message)
            continue
        answers: list[Message] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            answers.append(messages[place])
            place += 1
        shared = {"role": message["role"], "content": ""}
        for index, call in enumerate(calls):
            result.append({**(message if index == 0 else shared), "tool_calls": [call]})
            own = [one for one in answers if call.get("id") and one.get("tool_call_id") == call["id"]]
            result += own
            answers = [one for one in answers if not any(one is other for other in own)]
        result += answers
    return result
