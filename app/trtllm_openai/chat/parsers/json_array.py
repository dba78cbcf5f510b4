"""Tool calls in a JSON array: the whole response, as constrained decoding enforces it, or after a mark."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection

from trtllm_openai.chat.parsers.json_call import State
from trtllm_openai.chat.parsers.tool_parser import CallParser


class CallList(CallParser):
    """Base class for formats in which calls can be the items of an array."""

    SEPARATORS = re.compile(r"[\s,]*")

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._inside = False  # the array is open

    def advance(self) -> bool:
        call = self.call
        if call is None:
            return self._next() if self._inside else self.outside()
        state = self.feed(call)
        if call.over:
            self.call_ended(state)
        return call.over

    @abstractmethod
    def outside(self) -> bool:
        """Consume text outside the array. Returns False if more text is needed."""

    def call_ended(self, state: State) -> None:
        """The current call is done or failed."""
        if state == "failed":
            self.leave_array()

    def enter(self) -> None:
        """Enter the array. The buffer begins with its opening bracket."""
        self.hold_next(1)
        self._inside = True

    def leave_array(self) -> None:
        """Leave the array; what was held back is not a call."""
        self.give_up()
        self._inside = False

    def _next(self) -> bool:
        self.hold_space(self.SEPARATORS)
        if self.buffer.startswith("{"):
            self.begin_call()
        elif self.buffer:
            if self.buffer.startswith("]") and self.drop_separators():
                self.buffer = self.buffer[1:]
            self.leave_array()
        return True


class JsonArray(CallList):
    """`[{"name": …, "arguments": …}, …]` as the whole response."""

    def __init__(self, names: Collection[str], make_id: Callable[[], str] | None = None) -> None:
        super().__init__(names)
        self._make_id = make_id
        self._left = False  # the array has ended, or there is none

    def call_id(self) -> str:
        return self._make_id() if self._make_id is not None else super().call_id()

    def outside(self) -> bool:
        if self._left:
            self.content(self.buffer)
            self.buffer = ""
            return False
        self.hold_space()
        if self.buffer.startswith("["):
            self.enter()
        elif self.buffer:
            self.leave_array()
        return True

    def leave_array(self) -> None:
        super().leave_array()
        self._left = True
