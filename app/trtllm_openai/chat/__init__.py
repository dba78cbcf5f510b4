"""From a conversation to the model's prompt, and from its text back to an answer."""

from trtllm_openai.chat.format import ChatFormat
from trtllm_openai.chat.tools import NO_TOOLS, ToolPlan, plan_tools

__all__ = ["NO_TOOLS", "ChatFormat", "ToolPlan", "plan_tools"]
