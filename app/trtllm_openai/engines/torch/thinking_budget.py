"""Ends thinking after so many tokens: says when its end tag is due, and which token of it is next.

Follows thinking as `chat.parsers.reasoning` does: it comes first, after white space, or not at all; or, where
`Thinking.within` says so, any number of times at any place, for which there is one budget.
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
        """`special`: ids of special tokens in tags, by their text. `text_of`: bytes of any other token."""
        self._begin, self._end = thinking.begin.encode(), thinking.end.encode()
        self._special = {token: text.encode() for text, token in special.items()}
        self._end_ids = thinking.end_ids
        self._left = thinking.budget or 0
        self._repeats = thinking.within
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
        text = self._special.get(token) or self._text_of(token)
        if self._state == "begin":
            self._read_begin(text)
            return
        if token == self.due:
            self._forced += 1
        self._left -= 1
        self._read_inside(text)

    def _read_begin(self, text: bytes) -> None:
        self._text += text
        if self._repeats:
            _, found, inside = self._text.partition(self._begin)
        else:
            self._text = self._text.lstrip()
            found = self._begin if self._text.startswith(self._begin) else b""
            inside = self._text.removeprefix(self._begin)
        if found:
            self._state, self._text = "inside", b""
            self._read_inside(inside)
        elif self._repeats:
            self._text = self._text[-len(self._begin) :]
        elif not self._begin.startswith(self._text):
            self._state = "over"

    def _read_inside(self, text: bytes) -> None:
        self._text += text
        before, found, after = self._text.partition(self._end)
        if found or self._forced == len(self._end_ids):
            self._forced = 0
            self._state, self._text = ("begin", after) if self._repeats else ("over", b"")
        else:
            self._text = before[-len(self._end) :]
