"""Registry of tool-call formats, and detection of the format that a chat template uses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from trtllm_openai.chat.parsers.hermes import Hermes
from trtllm_openai.chat.parsers.llama_json import LlamaJson
from trtllm_openai.chat.parsers.mistral import Mistral
from trtllm_openai.chat.parsers.pythonic import Pythonic
from trtllm_openai.chat.parsers.reasoning import REASONING
from trtllm_openai.chat.parsers.tool_parser import ToolParser


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A tool-call format. `markers`: special tokens that the parser needs in the text."""

    parser: Callable[[Collection[str]], ToolParser]
    markers: tuple[str, ...]


TOOL_FORMATS = {
    "hermes": ToolFormat(Hermes, (Hermes.BEGIN, Hermes.END)),
    "llama3_json": ToolFormat(LlamaJson, (LlamaJson.MARK,)),
    "mistral": ToolFormat(Mistral, (Mistral.BEGIN, *Mistral.INNER)),
    "pythonic": ToolFormat(Pythonic, (Pythonic.BEGIN, Pythonic.END)),
}


def detect_tools(template: str) -> str | None:
    """Tool-call format of a chat template; None if the template does not support tools."""
    if "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_start|>" in template:
        return "pythonic"
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return "llama3_json"
    return "hermes"


def detect_reasoning(template: str) -> str | None:
    """Reasoning format whose tags occur in a chat template; None without one."""
    return next((name for name, form in REASONING.items() if form.end in template), None)
