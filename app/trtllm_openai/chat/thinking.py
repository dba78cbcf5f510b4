"""Whether the text that follows a prompt begins inside of thinking, may begin it, or follows it."""

from __future__ import annotations

from typing import Literal

from trtllm_openai.chat.parsers.reasoning import ReasoningFormat

ThinkingState = Literal["open", "possible", "over"]
"""`open`: the answer begins inside of thinking. `possible`: the model may begin it. `over`: it may not."""


def thinking_state(prompt: str, tags: ReasoningFormat, continued: str | None = None) -> ThinkingState:
    """The state after `prompt`. `continued`: the content of the last message, if the answer continues it."""
    end = prompt.rstrip()
    if end.endswith(tags.begin):
        return "open"
    if end.endswith(tags.end):
        return "over"
    if continued is None:
        return "possible"
    return "open" if continued.rfind(tags.begin) > continued.rfind(tags.end) else "over"
