"""Chat formats: messages to a prompt, and generated text to content, reasoning and tool calls."""

from trtllm_openai.chat.format import ChatFormat, Prompt
from trtllm_openai.chat.tools import NO_TOOLS, ToolPlan, plan_tools

__all__ = ["NO_TOOLS", "ChatFormat", "Prompt", "ToolPlan", "plan_tools"]
