"""Ends thinking after so many tokens: says when its end tag is due, and which token of it is next.

Follows thinking as `chat.parsers.reasoning` does: it comes first, after white space, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from trtllm_openai.generation import Thinking


class ThinkingBudget:
    """The budget of one sequence. `thinking.budget` is a number."""

    def __init__(
        self, thinking: Thinking, special: Mapping[str, int], text_of: Callable[[int], bytes]
    ) -> None:
        """`special`: ids of tags that are special tokens. `text_of`: bytes of a token, none if special."""
        self._begin, self._end = thinking.begin.encode(), thinking.end.encode()
        self._begin_id, self._end_id = special.get(thinking.begin), special.get(thinking.end)
        self._end_ids = thinking.end_ids
        self._left = thinking.budget or 0
        self._text_of = text_of
        self._state: Literal["begin", "inside", "over"] = "inside" if thinking.opened else "begin"
        self._text = b""  # while a tag may be incomplete in it
        self._forced = 0  # tokens of the end tag that were forced

    @property
    def due(self) -> int | None:
        """The token that has to follow, if the budget is used up."""
        return self._end_ids[self._forced] if self._state == "inside" and self._left <= 0 else None

    def count(self, token: int) -> None:
        """Take the next token of the sequence."""
        if self._state == "over":
            return
        text = self._text_of(token)
        if self._state == "begin":
            self._read_begin(token, text)
            return
        if token == self.due:
            self._forced += 1
        self._left -= 1
        self._read_inside(token, text)

    def _read_begin(self, token: int, text: bytes) -> None:
        self._text = (self._text + text).lstrip()
        if token == self._begin_id and not self._text:
            self._state = "inside"
        elif self._text.startswith(self._begin):
            self._state = "inside"
            inside, self._text = self._text.removeprefix(self._begin), b""
            self._read_inside(token, inside)
        elif not self._begin.startswith(self._text):
            self._state = "over"

    def _read_inside(self, token: int, text: bytes) -> None:
        self._text += text
        if token == self._end_id or self._end in self._text or self._forced == len(self._end_ids):
            self._state = "over"
        self._text = self._text[-len(self._end) :]
