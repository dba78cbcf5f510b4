"""Registry of tool-call formats, and detection of the formats that a chat template uses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from trtllm_openai.chat.parsers import formats, harmony
from trtllm_openai.chat.parsers.call_forms import BareJsonCalls, CallForm, ListedCalls, PythonicCalls
from trtllm_openai.chat.parsers.layout import LayoutParser
from trtllm_openai.chat.parsers.llama_json import LlamaJson
from trtllm_openai.chat.parsers.mistral import Mistral
from trtllm_openai.chat.parsers.pythonic import Pythonic
from trtllm_openai.chat.parsers.reasoning import REASONING
from trtllm_openai.chat.parsers.tool_parser import ToolParser


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A tool-call format: how calls are read, and how they are written where a guide describes them.

    `markers`: special tokens that the parser needs in the text. `form`: its grammar follows the same marks;
    without one the model's own calls are not held to schemas, and a form cannot be demanded beside tools that
    may be called. `interrupts`: special tokens that begin calls, with which models leave reasoning without
    its end tag.
    """

    parser: Callable[[Collection[str]], ToolParser]
    markers: tuple[str, ...]
    form: CallForm | None = None
    interrupts: tuple[str, ...] = ()


def _declared(parser: type[LayoutParser], *, interrupts: bool = False) -> ToolFormat:
    layout = parser.LAYOUT
    return ToolFormat(parser, layout.markers, layout.form, layout.begin if interrupts else ())


TOOL_FORMATS = {
    "hermes": _declared(formats.Hermes),
    "llama3_json": ToolFormat(LlamaJson, LlamaJson.MARKS, BareJsonCalls(LlamaJson.MARKS[0])),
    "mistral": ToolFormat(Mistral, (Mistral.BEGIN, *Mistral.INNER), ListedCalls(Mistral.BEGIN, "[ARGS]")),
    "pythonic": ToolFormat(Pythonic, (Pythonic.BEGIN, Pythonic.END), PythonicCalls()),
    "deepseek_v3": _declared(formats.DeepSeekV3, interrupts=True),
    "deepseek_v31": _declared(formats.DeepSeekV31, interrupts=True),
    "qwen3_coder": _declared(formats.Qwen3Coder),
    "glm45": _declared(formats.Glm45),
    "kimi_k2": _declared(formats.KimiK2, interrupts=True),
    "harmony": ToolFormat(harmony.Harmony, harmony.MARKS, harmony.FORM),
    "granite": _declared(formats.Granite),
    "granite_20b": _declared(formats.Granite20b),
    "phi4_mini": _declared(formats.Phi4Mini),
    "functiongemma": _declared(formats.FunctionGemma),
    "gemma4": _declared(formats.Gemma4),
}
"""By the name that `tool_parser` gives."""

TEMPLATE_MARKS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("[TOOL_CALLS]",), (), "mistral"),
    (("<|channel|>commentary",), (), "harmony"),
    (("<|channel|>", "<|message|>", "<|start|>"), (), "harmony"),
    (("<｜tool▁calls▁begin｜>", "```json"), (), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), (), "deepseek_v31"),
    (("<|tool_calls_section_begin|>",), (), "kimi_k2"),
    (("<|im_system|>tool_declare",), (), "kimi_k2"),
    (("<function=", "<parameter="), (), "qwen3_coder"),
    (("<arg_key>", "<arg_value>"), (), "glm45"),
    (("<start_function_call>",), (), "functiongemma"),
    (("<|tool_call>",), (), "gemma4"),
    (("<function_call> ",), (), "granite_20b"),
    (("<|start_of_role|>",), ("</tool_call>",), "granite"),
    (("functools[",), (), "phi4_mini"),
    (("<|tool|>", "<|/tool|>"), (), "phi4_mini"),
    (("[func_name1(",), (), "pythonic"),
    (("<|python_start|>",), ('"parameters": ',), "pythonic"),
    (("<|python_tag|>",), (), "llama3_json"),
    (('"parameters": ',), ("</tool_call>",), "llama3_json"),
)
"""Texts that a template carries, texts that it does not, and its format. The first that fits counts."""


def detect_tools(template: str) -> str | None:
    """Tool-call format of a chat template; None if the template does not support tools."""
    if "tools" not in template:
        return None
    for present, absent, name in TEMPLATE_MARKS:
        if all(mark in template for mark in present) and not any(mark in template for mark in absent):
            return name
    return "hermes"


def detect_reasoning(template: str) -> str | None:
    """Reasoning format whose mark occurs in a chat template; None without one."""
    return next((name for name, form in REASONING.items() if (form.mark or form.end) in template), None)
