"""Streaming parsers for the tool-call formats of model families, and for reasoning tags."""

from trtllm_openai.chat.parsers.output import ChatOutput
from trtllm_openai.chat.parsers.reasoning import REASONING, ReasoningFormat
from trtllm_openai.chat.parsers.registry import TOOL_FORMATS, ToolFormat, detect_reasoning, detect_tools

__all__ = [
    "REASONING",
    "TOOL_FORMATS",
    "ChatOutput",
    "ReasoningFormat",
    "ToolFormat",
    "detect_reasoning",
    "detect_tools",
]
