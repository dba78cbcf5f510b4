"""The guide of a chat: the form that is demanded, the calls that may be made, and thinking before them.

| tools | a form is demanded | the guide, after thinking |
|---|---|---|
| none | yes | the form |
| a call is required | either | the calls; a call has no content that could have the form |
| may be called | yes | calls in the model's own format, or the form |
| may be called | no | any text; a call that begins in it is held to the tools (`tool_strict`) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from trtllm_openai.api.guides import MAX_GUIDE, check_guide, find_guide, schema_guide
from trtllm_openai.chat import ChatFormat, ToolPlan
from trtllm_openai.chat.parsers.call_forms import CallableTool, CallForm, json_part
from trtllm_openai.chat.parsers.tag_forms import OPTIONS, Part, either
from trtllm_openai.chat.thinking import ThinkingState
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, Guide, Thinking
from trtllm_openai.generation.build import unsupported
from trtllm_openai.protocol.chat import ChatRequest

Strictness = Literal["auto", "all", "none"]
"""The tools whose calls are held to their schemas where no call is required: all as far as that can be done,
all, or only those with `strict: true`."""

THINKING_BUDGET = "thinking_token_budget"
PARAM = "param"
"""The key of a part's own parameter, until they are the `origins` of a guide."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """`guide` is None for free text. `demanded`: the answer has a form, or must be a call.

    `left_out`: parameters that cannot be honoured here and are no reason to refuse.
    """

    guide: Guide | None
    demanded: bool
    left_out: tuple[str, ...] = ()


def answer_form(
    body: ChatRequest,
    info: EngineInfo,
    chat: ChatFormat,
    tools: ToolPlan,
    thinking: ThinkingState,
    strictness: Strictness,
) -> AnswerForm:
    """The form of a chat's answer. `strictness`: the setting `tool_strict`. Raises `InvalidRequest`."""
    form = _demanded(body, info, tools)
    guide = _guide(body, info, chat, tools, form, thinking, strictness)
    return AnswerForm(guide, form is not None, _unheld(tools, guide))


def _demanded(body: ChatRequest, info: EngineInfo, tools: ToolPlan) -> Guide | None:
    """The guide of the form or the call that is demanded, without thinking."""
    guide = find_guide(body, info, body.response_format)
    if tools.schema is None:
        return guide
    # A fault of the whole schema is one of the tool, if there is only one.
    param = tools.origins[0][1] if len(tools.origins) == 1 else "tools"
    guide = schema_guide(tools.schema, param, tools.origins)
    check_guide(info, guide)
    if body.min_tokens:
        raise InvalidRequest(
            "min_tokens cannot be combined with a tool_choice that requires a call.", "min_tokens"
        )
    return guide


def _guide(
    body: ChatRequest,
    info: EngineInfo,
    chat: ChatFormat,
    tools: ToolPlan,
    form: Guide | None,
    thinking: ThinkingState,
    strictness: Strictness,
) -> Guide | None:
    """The whole guide, or None for free text. `form`: that of `_demanded`."""
    budget = body.thinking_token_budget
    if budget is not None and not info.capabilities.thinking_budget:
        raise unsupported(info, THINKING_BUDGET)
    guide = form
    if tools.tools and tools.schema is None:
        guide = (
            _held_calls(body, info, chat, tools, strictness) if form is None else _calls_or(form, chat, tools)
        )
        if guide is not None and guide is not form and not guide.optional:
            check_guide(info, guide)
    if chat.reasoning is None or thinking == "over":
        return guide
    if guide is None:
        if budget is None:
            return None
        guide = _structural_tag({"type": "any_text"}, THINKING_BUDGET, chat, endless=True)
    elif "structural_tag" not in info.capabilities.guides or chat.reasoning.answer:
        # Where the answer has a beginning of its own, the form takes its place.
        return guide if thinking == "possible" else _refuse_thinking(info, guide)
    tags = chat.reasoning
    thought = Thinking(tags.begin, tags.end, chat.end_of_thinking, thinking == "open", budget)
    optional = guide.optional and budget is None
    return msgspec.structs.replace(guide, thinking=thought, special=chat.special_marks, optional=optional)


def _refuse_thinking(info: EngineInfo, guide: Guide) -> Guide:
    raise InvalidRequest(
        f"{guide.param} cannot follow thinking: the engine {info.engine} has no structural tags, "
        "or the model begins its answers with a tag of their own.",
        guide.param,
        "unsupported_parameter",
    )


def _calls_or(form: Guide, chat: ChatFormat, tools: ToolPlan) -> Guide:
    """Calls or the form. Raises `InvalidRequest` where calls cannot be described."""
    calls = _call_form(chat)
    if calls is None:
        raise InvalidRequest(
            f"{form.param} cannot be combined with tools that may be called: calls in the format "
            f"{chat.tool_format} are not described by a grammar.",
            form.param,
            "unsupported_parameter",
        )
    callable_tools = [
        _callable(tool, index, lenient=not _is_strict(tool))
        for index, tool in zip(tools.places, tools.tools, strict=True)
    ]
    part = either(calls.calls(callable_tools, parallel=tools.parallel), _as_part(form))
    return _structural_tag(part, form.param, chat)


def _held_calls(
    body: ChatRequest, info: EngineInfo, chat: ChatFormat, tools: ToolPlan, strictness: Strictness
) -> Guide | None:
    """Free text in which a call that begins is held to the tools; None where calls are not held."""
    strictness = body.tool_strict or strictness
    strict = [strictness == "all" or _is_strict(tool) for tool in tools.tools]
    demanded = any(strict)
    if not demanded and strictness == "none":
        return None
    calls = _call_form(chat)
    if calls is None or "structural_tag" not in info.capabilities.guides:
        if strictness == "all":
            raise unsupported(info, "tool_strict")
        return None
    endless = tools.parallel
    if (body.min_tokens or vars(body)["ignore_eos"]) and not endless:
        if demanded:
            name = "min_tokens" if body.min_tokens else "ignore_eos"
            raise InvalidRequest(f"{name} cannot be combined with one strict call.", name)
        return None
    held = [
        _callable(tool, index, lenient=not one, held=one or strictness != "none")
        for index, tool, one in zip(tools.places, tools.tools, strict, strict=True)
    ]
    part = {
        "type": "triggered_tags",
        "triggers": calls.triggers(held),
        "tags": calls.tags(held, parallel=tools.parallel),
        "at_least_one": False,
        "stop_after_first": not tools.parallel,
    }
    guide = _structural_tag(part, "tools", chat, endless=endless, optional=not demanded)
    return None if len(guide.text) > MAX_GUIDE and guide.optional else guide


def _unheld(tools: ToolPlan, guide: Guide | None) -> tuple[str, ...]:
    """The names of tools' `strict: true` where the guide does not hold calls to their schemas."""
    if guide is not None and guide.param != THINKING_BUDGET:
        return ()
    return tuple(
        f"tools[{index}].function.strict"
        for index, tool in zip(tools.places, tools.tools, strict=True)
        if _is_strict(tool)
    )


def _structural_tag(
    part: Part, param: str, chat: ChatFormat, *, endless: bool = False, optional: bool = False
) -> Guide:
    origins: list[tuple[str, str]] = []
    form = _placed(part, ".format", origins)
    text = msgspec.json.encode({"type": "structural_tag", "format": form}).decode()
    return Guide(
        "structural_tag",
        text,
        param,
        tuple(origins),
        special=chat.special_marks,
        endless=endless,
        optional=optional,
    )


def _placed(part: Any, path: str, origins: list[tuple[str, str]]) -> Any:
    """The part without the parameters that parts of it came from: `origins` gets them with their paths."""
    if isinstance(part, list):
        return [_placed(one, f"{path}[{index}]", origins) for index, one in enumerate(part)]
    if not isinstance(part, dict):
        return part
    if PARAM in part:
        origins.append((path + _TEXT_OF.get(part["type"], ""), part[PARAM]))
        return {key: value for key, value in part.items() if key != PARAM}
    return {key: _placed(value, f"{path}.{key}", origins) for key, value in part.items()}


_TEXT_OF = {"json_schema": ".json_schema", "regex": ".pattern", "grammar": ".grammar"}


def _call_form(chat: ChatFormat) -> CallForm | None:
    """How the model writes calls; None where that is not described, or where calls are a channel."""
    return chat.tools.form if chat.tools is not None and not chat.channels else None


def _is_strict(tool: dict[str, Any]) -> bool:
    return tool["function"].get("strict") is True


def _callable(tool: dict[str, Any], index: int, *, lenient: bool, held: bool = True) -> CallableTool:
    """A tool whose arguments have the schema of its parameters; `lenient`: without what cannot be enforced.

    Raises `InvalidRequest` for a schema that is none; a lenient one is then any object.
    """
    function = tool["function"]
    schema = function.get("parameters") or {}
    param = f"tools[{index}].function.parameters"
    if lenient:
        try:
            schema_guide(schema, param)
        except InvalidRequest:
            held = False
    else:
        schema_guide(schema, param)
    schema = {"type": "object", **schema} if held else {"type": "object"}
    if lenient:
        schema = {**schema, OPTIONS: {"lenient": True}}
    return CallableTool(function["name"], {**json_part(schema), PARAM: param})


def _as_part(form: Guide) -> Part:
    """A guide as a part of a structural tag."""
    match form.kind:
        case "json_object":
            return json_part({"type": "object"})
        case "json_schema":
            return {**json_part(msgspec.json.decode(form.text)), PARAM: form.param}
        case "regex":
            return {"type": "regex", "pattern": form.text, PARAM: form.param}
        case "grammar":
            return {"type": "grammar", "grammar": form.text, PARAM: form.param}
        case "structural_tag":
            return {**msgspec.json.decode(form.text)["format"], PARAM: f"{form.param}.format"}
