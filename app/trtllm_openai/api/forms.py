"""The guide of a chat: the form that is demanded, the calls that may be made, and thinking before them.

| tools | a form is demanded | the guide, after thinking |
|---|---|---|
| none | yes | the form |
| a call is required | either | the calls; a call has no content that could have the form |
| may be called | yes | calls in the model's own format, or the form |
| may be called | no | any text; a call that begins in it is held to the tools (`tool_strict`) |

Where thinking and calls are messages on channels (gpt-oss), the guide describes all of the answer's messages.
An engine without the capability `channels` cannot repeat them: there a demanded form or call follows at most
one message of thinking, and other answers are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from trtllm_openai.api.guides import MAX_GUIDE, check_guide, find_guide, schema_guide
from trtllm_openai.api.held_tools import (
    Strictness,
    callable_tool,
    held_tools,
    is_strict,
    must_hold,
    placed_tools,
)
from trtllm_openai.chat import ChatFormat, ToolPlan
from trtllm_openai.chat.parsers import harmony_form
from trtllm_openai.chat.parsers.call_forms import PARAM, CallableTool, json_part
from trtllm_openai.chat.parsers.tag_forms import Part, either
from trtllm_openai.chat.thinking import ThinkingState
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, Guide, Thinking
from trtllm_openai.generation.build import unsupported
from trtllm_openai.protocol.chat import ChatRequest

THINKING_BUDGET = "thinking_token_budget"
EFFORT_BUDGETS = {"minimal": 128, "low": 1024, "medium": 2048}
"""Tokens of thinking by `reasoning_effort`, as LiteLLM has them for models with a budget."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """`guide` is None for free text. `demanded`: the answer has a form, or must be a call.

    `left_out`: parameters that cannot be honoured here and are no reason to refuse. `own_calls`: a call that
    must come is written in the model's own format, else as an array.
    """

    guide: Guide | None
    demanded: bool
    left_out: tuple[str, ...] = ()
    own_calls: bool = False


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
    if body.thinking_token_budget is not None and not info.capabilities.thinking_budget:
        raise unsupported(info, THINKING_BUDGET)
    answer = _Answer(body, info, chat, tools, form, thinking, strictness)
    own_calls = False
    if chat.channels and (info.capabilities.channels or (form is not None and _tags(info))):
        own_calls = tools.schema is not None and chat.call_form is not None
        guide = answer.messages()
    else:
        guide = answer.guide()
    return AnswerForm(guide, form is not None, _unheld(tools, guide), own_calls)


def _tags(info: EngineInfo) -> bool:
    """Whether the engine knows structural tags, of which all but the plainest guides are made."""
    return "structural_tag" in info.capabilities.guides


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


@dataclass(frozen=True, slots=True)
class _Answer:
    """Makes the guide of an answer. `form`: that of `_demanded`."""

    body: ChatRequest
    info: EngineInfo
    chat: ChatFormat
    tools: ToolPlan
    form: Guide | None
    thinking: ThinkingState
    strictness: Strictness

    def guide(self) -> Guide | None:
        """The whole guide, or None for free text."""
        budget = self._budget()
        guide = self.form
        if self.tools.tools and self.tools.schema is None:
            guide = self._held_calls() if self.form is None else self._calls_or(self.form)
            if guide is not None and guide is not self.form and not guide.optional:
                check_guide(self.info, guide)
        if self.chat.reasoning is None or self.thinking == "over":
            return guide
        if guide is None:
            if budget is None:
                return None
            guide = _structural_tag({"type": "any_text"}, THINKING_BUDGET, self.chat, endless=True)
        elif not _tags(self.info) or self.chat.channels:
            return guide if self.thinking == "possible" else _refuse_thinking(self.info, guide)
        tags = self.chat.reasoning
        thought = Thinking(tags.begin, tags.end, self.chat.end_of_thinking, self.thinking == "open", budget)
        if self.form is not None and tags.answer_end:  # free text may begin with the tag
            thought = msgspec.structs.replace(thought, answer=tags.answer, answer_end=tags.answer_end)
        optional = guide.optional and self.body.thinking_token_budget is None
        return msgspec.structs.replace(
            guide, thinking=thought, special=self.chat.special_marks, optional=optional
        )

    def messages(self) -> Guide | None:
        """The guide of an answer in messages on channels, thinking and calls too; None for free ones."""
        budget, tags = self._budget(), self.chat.reasoning
        thinks = tags is not None and tags.channels
        opened = thinks and self.thinking == "open"
        held: list[CallableTool] = []
        optional = self.form is None and self.body.thinking_token_budget is None
        if self.chat.call_form is None:
            if self.tools.schema is not None:
                return self.form  # an array of calls, which is read without channels
            if self.tools.tools and (self.body.tool_strict or self.strictness) == "all":
                raise unsupported(self.info, "tool_strict")
        elif self.form is not None:
            held = self._callable_tools()
        elif self.tools.tools:
            held = held_tools(self.body, self.tools, self.strictness, endless=False)
            optional = optional and not must_hold(self.body, self.tools, self.strictness)
        if self.form is None:
            if not held and (budget is None or not thinks):
                return None
            part = harmony_form.free(held, inside=self.thinking != "possible")
        else:
            forms = [] if self.tools.schema is not None and held else [_as_part(self.form)]
            within = self.thinking == "over"
            once = not self.info.capabilities.channels
            part = harmony_form.demanded(
                forms, held, thinks=thinks, thinking=opened, within=within, once=once
            )
        param = self.form.param if self.form is not None else "tools" if held else THINKING_BUDGET
        guide = _structural_tag(
            part, param, self.chat, endless=not held and self.form is None, optional=optional
        )
        if len(guide.text) > MAX_GUIDE and guide.optional:
            return None
        check_guide(self.info, guide)
        if budget is None or tags is None:
            return guide
        bounds = Thinking(tags.begin, tags.end, self.chat.end_of_thinking, opened, budget, within=True)
        return msgspec.structs.replace(guide, thinking=bounds)

    def _calls_or(self, form: Guide) -> Guide:
        """Calls or the form. Raises `InvalidRequest` where calls cannot be described."""
        if self.chat.call_form is None or self.chat.channels:
            raise InvalidRequest(
                f"{form.param} cannot be combined with tools that may be called: the engine "
                f"{self.info.engine} cannot describe calls in the format {self.chat.tool_format}.",
                form.param,
                "unsupported_parameter",
            )
        calls = self.chat.call_form.calls(self._callable_tools(), parallel=self.tools.parallel)
        part = either(calls, _as_part(form))
        return _structural_tag(part, form.param, self.chat)

    def _callable_tools(self) -> list[CallableTool]:
        """The tools that may be called; all are strict where a call is required."""
        required = self.tools.schema is not None
        return [
            callable_tool(tool, index, lenient=not (required or is_strict(tool)))
            for index, tool in placed_tools(self.tools)
        ]

    def _held_calls(self) -> Guide | None:
        """Free text in which a call that begins is held to the tools; None where calls are not held."""
        demanded = must_hold(self.body, self.tools, self.strictness)
        calls = self.chat.call_form
        if calls is None or self.chat.channels or not _tags(self.info):
            if (self.body.tool_strict or self.strictness) == "all":
                raise unsupported(self.info, "tool_strict")
            return None
        held = held_tools(self.body, self.tools, self.strictness, endless=self.tools.parallel)
        if not held:
            return None
        part = {
            "type": "triggered_tags",
            "triggers": calls.triggers(held),
            "tags": calls.tags(held, parallel=self.tools.parallel),
            "at_least_one": False,
            "stop_after_first": not self.tools.parallel,
        }
        guide = _structural_tag(part, "tools", self.chat, endless=self.tools.parallel, optional=not demanded)
        return None if len(guide.text) > MAX_GUIDE and guide.optional else guide

    def _budget(self) -> int | None:
        """The tokens that thinking may take: as asked for, or by an effort that no template reads."""
        if (
            self.body.thinking_token_budget is not None
            or not self.info.capabilities.thinking_budget
            or self.chat.knows_effort
        ):
            return self.body.thinking_token_budget
        return EFFORT_BUDGETS.get(self.body.reasoning_effort or "")


def _refuse_thinking(info: EngineInfo, guide: Guide) -> Guide:
    raise InvalidRequest(
        f"{guide.param} cannot follow thinking: the engine {info.engine} cannot describe both.",
        guide.param,
        "unsupported_parameter",
    )


def _unheld(tools: ToolPlan, guide: Guide | None) -> tuple[str, ...]:
    """The names of tools' `strict: true` where the guide does not hold calls to their schemas."""
    if guide is not None and guide.param != THINKING_BUDGET:
        return ()
    return tuple(f"tools[{index}].function.strict" for index, tool in placed_tools(tools) if is_strict(tool))


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
