"""Tool calls as a JSON array: the format that constrained decoding enforces for a required call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from trtllm_openai.chat.parsers.tool_parser import JsonToolParser


class JsonArray(JsonToolParser):
    """`[{"name": …, "arguments": …}, …]` as the whole response."""

    SEPARATORS = re.compile(r"[\s,]*")

    def __init__(self, names: Collection[str], make_id: Callable[[], str] | None = None) -> None:
        super().__init__(names)
        self._make_id = make_id
        self._inside = False  # the array is open
        self._left = False  # the array has ended, or there is none

    def call_id(self) -> str:
        return self._make_id() if self._make_id is not None else super().call_id()

    def advance(self) -> bool:
        if self.call is not None:
            if self.feed(self.call) == "failed":
                self._leave_array()
            return self.call is None
        return self._next() if self._inside else self.outside()

    def outside(self) -> bool:
        """Consume text outside the array."""
        if self._left:
            self.content(self.buffer)
            self.buffer = ""
            return False
        self.hold_space()
        if self.buffer.startswith("["):
            self.enter()
        elif self.buffer:
            self._leave_array()
        return True

    def enter(self) -> None:
        """Enter the array. The buffer begins with its opening bracket."""
        self.hold_next(1)
        self._inside = True

    def _next(self) -> bool:
        self.hold_space(self.SEPARATORS)
        if self.buffer.startswith("{"):
            self.begin_call()
        elif self.buffer:
            if self.buffer.startswith("]") and self.drop_separators():
                self.buffer = self.buffer[1:]
            self._leave_array()
        return True

    def _leave_array(self) -> None:
        self.give_up()
        self._inside, self._left = False, True
