"""`continue_final_message`: a prompt that ends with the text of the last message, to the character.

Templates trim a message, split it at thinking tags, and write tags after it. So the template renders a mark
in its place, and what it writes before the mark is what the text is put after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.parsers.reasoning import ReasoningFormat
from trtllm_openai.errors import InvalidRequest

Draw = Callable[[list[Message], bool], str]
"""Renders messages, with the beginning of an answer or without. Raises `InvalidRequest`."""


class Continuation(NamedTuple):
    """`text`: what the answer goes on from, at the end of `prompt`; with its begin tag if it is thinking."""

    prompt: str
    text: str


def continue_last(messages: list[Message], draw: Draw, tags: ReasoningFormat | None) -> Continuation:
    """The prompt for more of the last of normalised messages. `tags`: of the model's thinking.

    Its content is continued, or, where there is none, its `reasoning_content`. Raises `InvalidRequest` if the
    template leaves that out.
    """
    last = messages[-1]
    content, thinking = last["content"], last.get("reasoning_content")
    if tags is not None and last["role"] == "assistant" and (tags.begin in content or tags.end in content):
        return Continuation(_beginning(messages, draw, tags, content) + content, content)
    if content or not isinstance(thinking, str) or not thinking:
        return Continuation(_before_mark(messages, draw, "content") + content, content)
    prompt = _before_mark(messages, draw, "reasoning_content") + thinking
    return Continuation(prompt, (tags.begin if tags is not None else "") + thinking)


def check_continued(message: Message, json_path: str) -> None:
    """Raise `InvalidRequest` for a client's message that cannot be continued."""
    for field in ("tool_calls", "function_call"):
        if message.get(field):
            raise InvalidRequest(
                f"'{json_path}.{field}' cannot be continued: continue_final_message needs a last message "
                "without calls.",
                f"{json_path}.{field}",
            )


def _before_mark(messages: list[Message], draw: Draw, field: str) -> str:
    """The text that the template writes before this field of the last message."""
    mark = f"mark{secrets.token_hex(8)}"
    before, found, _ = draw([*messages[:-1], {**messages[-1], field: mark}], False).rpartition(mark)
    if not found:
        raise InvalidRequest(
            f"continue_final_message: the model's chat template leaves out the {field} of the last message.",
            "continue_final_message",
        )
    return before


def _beginning(messages: list[Message], draw: Draw, tags: ReasoningFormat, content: str) -> str:
    """The text before a content that has thinking tags of its own, which a template would take apart.

    That is the beginning of an answer, without a begin tag if the content has one.
    """
    prompt = draw(messages[:-1], True)
    opened = prompt.rstrip()
    if tags.begin in content and opened.endswith(tags.begin):
        return opened.removesuffix(tags.begin)
    return prompt
