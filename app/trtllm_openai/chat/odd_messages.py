"""Messages that a chat template may not know what to do with: late system messages, and roles of its own.

Templates differ: some render a system message wherever it is, some only as the first message, and raise an
error for a later one or leave it out. A role that not every template knows may be left out without an error,
too.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.template import TemplateRefusal
from trtllm_openai.errors import InvalidRequest

Draw = Callable[[list[Message]], str]
"""Renders messages. Raises `InvalidRequest`."""

TURNS = frozenset({"user", "assistant", "tool"})
"""Roles that every template renders wherever they may come."""
COMMON_ROLES = TURNS | {"system"}
MAX_SEARCHED = 1 << 26
"""Characters that may be searched for the contents of messages, some 50 ms."""


def render_all(messages: list[Message], draw: Draw) -> str:
    """The rendering of normalised messages, with none left out.

    Where the template refuses a system message after the first message, or leaves it out, all system messages
    become the first. Raises `InvalidRequest` for a message of an uncommon role that is left out.
    """
    if all(message["role"] in TURNS for message in messages[1:]):
        return draw(messages)  # the common case
    late = [message for message in messages[1:] if message["role"] == "system"]
    try:
        text = draw(messages)
    except TemplateRefusal as refusal:
        if not late:
            raise
        try:
            return draw(system_first(messages))
        except TemplateRefusal:
            raise refusal from None
    if _first_missing(late, text) is not None:
        messages = system_first(messages)
        text = draw(messages)
    _check_roles(messages, text, draw)
    return text


def system_first(messages: list[Message]) -> list[Message]:
    """All system messages as one at the beginning. Messages of the user that then meet become one."""
    texts = [message["content"] for message in messages if message["role"] == "system"]
    merged: list[Message] = [{"role": "system", "content": _joined(texts)}]
    after_system = False
    for message in messages:
        if message["role"] == "system":
            after_system = True
            continue
        last = merged[-1]
        if after_system and message["role"] == last["role"] == "user":
            merged[-1] = {**last, "content": _joined([last["content"], message["content"]])}
        else:
            merged.append(message)
        after_system = False
    return merged


def _joined(texts: list[str]) -> str:
    return "\n\n".join(filter(None, texts))


def _first_missing(messages: list[Message], text: str) -> Message | None:
    """The first message whose content is nowhere in the rendering, neither as it is nor as JSON.

    Of many messages and a long rendering, only the first messages are looked for.
    """
    for message in messages[: 1 + MAX_SEARCHED // (len(text) + 1)]:
        content = message["content"].strip()
        if content not in text and json.dumps(content, ensure_ascii=False)[1:-1] not in text:
            return message
    return None


def _check_roles(messages: list[Message], text: str, draw: Draw) -> None:
    missing = _first_missing([one for one in messages if one["role"] not in COMMON_ROLES], text)
    if missing is None:
        return
    try:
        same = draw([one for one in messages if one is not missing]) == text
    except TemplateRefusal:
        return  # it made a difference
    if same:
        raise InvalidRequest(
            f"The model's chat template leaves out messages of the role {missing['role']!r}.", "messages"
        )
