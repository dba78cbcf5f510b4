"""Translates a request of `/v1/messages` to a chat request, and errors about that back to its own fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.messages.conversation import Conversation
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.messages import (
    OWN_PARAMETERS,
    CountTokensRequest,
    MessagesRequest,
    OutputConfig,
    ToolChoice,
)

_PARAMETERS = tuple(row.name for row in OWN_PARAMETERS)
_NAMES = {
    "stop": "stop_sequences",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
    "tool_choice.function.name": "tool_choice.name",
}
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function(?:\.(parameters|name|strict))?)?")
_NAME = re.compile(
    rf"(?<![\w.\[]){_TOOL.pattern}|(?<=')(?:{'|'.join(map(re.escape, _NAMES))})(?=['.\[])"
    r"|(?<![\w.\['])response_format(?:\.json_schema)?(?=[ .,\[])"
)
"""A chat parameter in the text of a message; a word of everyday language only in quotes."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(frozen=True, slots=True)
class Translation:
    """`chat`: the body of the equivalent chat request. `left_out`: what was left out of it, by name."""

    chat: JsonObject
    left_out: list[str]
    _tool_places: list[int]

    def renamed(self, fault: ApiError) -> ApiError:
        """An error about the chat request, with the parameter as the client wrote it, in the message too."""
        if fault.param is None:
            return fault
        fault.message = _NAME.sub(lambda found: self.own_name(found[0]), fault.message)
        fault.param = self.own_name(fault.param)
        return fault

    def own_name(self, param: str) -> str:
        """A parameter of the chat request as the client wrote it."""
        tool = _TOOL.match(param)
        if tool is not None and int(tool[1]) < len(self._tool_places):
            own = {"parameters": ".input_schema", "name": ".name", "strict": ".strict"}.get(tool[2], "")
            return f"tools[{self._tool_places[int(tool[1])]}]{own}{param[tool.end() :]}"
        for chat_name, name in _NAMES.items():
            if param == chat_name or param.startswith((f"{chat_name}.", f"{chat_name}[")):
                return name + param[len(chat_name) :]
        return param


def translate(body: CountTokensRequest, *, budgets: bool = False) -> Translation:
    """The equivalent chat request. `budgets`: the engine has thinking budgets; else one is left out.

    Raises `InvalidRequest` that names the client's own field.
    """
    conversation = Conversation()
    if body.system:
        conversation.add_system(body.system, "system")
    for index, turn in enumerate(body.messages):
        conversation.add_turn(turn, f"messages[{index}]")
    tools, places, left_out = _tools(body.tools or [])
    output = body.output_config or OutputConfig()
    chat: JsonObject = {
        "messages": conversation.messages,
        "continue_final_message": conversation.continues or None,
        "tools": tools or None,
        **_tool_choice(body.tool_choice),
        "response_format": _response_format(output.format),
        "reasoning_effort": output.effort,
        "chat_template_kwargs": _template_variables(body) or None,
    }
    if isinstance(body, MessagesRequest):
        fields = vars(body)
        chat |= {name: fields[name] for name in _PARAMETERS}
        chat |= {"max_tokens": body.max_tokens, "stop": body.stop_sequences, "timeout": body.timeout}
    thinking = body.thinking
    if thinking is not None and thinking.budget_tokens is not None and thinking.type != "disabled":
        if budgets:
            chat["thinking_token_budget"] = thinking.budget_tokens
        else:
            left_out.append("thinking.budget_tokens")
    given = {name: value for name, value in chat.items() if value is not None}
    return Translation(given, [*sorted(conversation.left_out), *left_out], places)


def _tools(tools: list[JsonObject]) -> tuple[list[JsonObject], list[int], list[str]]:
    """The custom tools for chat, their places in the client's list, and the others' names."""
    found: list[JsonObject] = []
    places: list[int] = []
    left_out: list[str] = []
    for index, tool in enumerate(tools):
        kind = tool.get("type") or "custom"
        if not isinstance(kind, str):
            raise InvalidRequest(f"'tools[{index}].type' must be a text.", f"tools[{index}].type")
        if kind != "custom":
            left_out.append(f"tools[{index}]:{kind}")
            continue
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            param = f"tools[{index}].input_schema"
            raise InvalidRequest(f"'{param}' must be a JSON schema.", param)
        function = {"name": tool.get("name"), "parameters": schema}
        function |= {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
        found.append({"type": "function", "function": function})
        places.append(index)
    return found, places, left_out


def _tool_choice(choice: ToolChoice | None) -> JsonObject:
    if choice is None:
        return {}
    parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    if choice.type != "tool":
        return {"tool_choice": _CHOICES[choice.type], **parallel}
    if choice.name is None:
        raise InvalidRequest(
            "Missing required parameter: 'tool_choice.name'.",
            "tool_choice.name",
            "missing_required_parameter",
        )
    return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **parallel}


def _response_format(form: JsonObject | None) -> JsonObject | None:
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise InvalidRequest("'output_config.format.type' must be json_schema.", "output_config.format.type")
    schema = {"name": "output", "schema": form.get("schema"), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _template_variables(body: CountTokensRequest) -> dict[str, Any]:
    thinking = body.thinking
    asked = {} if thinking is None else {"enable_thinking": thinking.type != "disabled"}
    return {**asked, **(body.chat_template_kwargs or {})}
