"""What the parsers of tool calls share, whatever the format.

Every parser is fed text and gives events. Text that is no part of a call comes out as content, unchanged;
only white space before a call, and what parts and ends calls, is dropped. A call that was begun stays, as far
as it went. The events do not depend on how the text is cut, and the work is linear in its length.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from trtllm_openai.chat.parsers.json_call import JsonCall, State
from trtllm_openai.chat.parsers.marker import could_begin
from trtllm_openai.text.events import Content, Event

SPACE = re.compile(r"\s*")
LONGEST_PIECE = 256
"""Consuming copies the rest of the buffer, so a long text goes in piece by piece."""


class ToolParser(ABC):
    """The buffer, the text held back, content, and the numbering of calls.

    A subclass consumes `self.buffer` in `advance`, which is called again as long as it returns True. To keep
    the work linear, what stays in the buffer must be short: anything longer is held.
    """

    SEPARATORS = SPACE
    """What may follow a call without being content."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the tools that may be called."""
        self.names = frozenset(names)
        self.buffer = ""
        self.calls = 0
        self.ended = False
        self._held: list[str] = []  # content, unless a call begins next
        self._after_call = False  # nothing but what is held came after a call
        self._events: list[Event] = []

    def push(self, text: str) -> list[Event]:
        """The events that `text` makes certain."""
        for start in range(0, len(text), LONGEST_PIECE):
            self.buffer += text[start : start + LONGEST_PIECE]
            while self.buffer and self.advance():
                pass
        return self._taken()

    def finish(self) -> list[Event]:
        """The events of what was held back."""
        self.ended = True
        while self.buffer and self.advance():
            pass
        self.hold(self.buffer)
        self.buffer = ""
        self.leave()
        self.drop_separators()
        self._pass("")
        return self._taken()

    @abstractmethod
    def advance(self) -> bool:
        """Consume from the buffer; False when more text is needed."""

    def leave(self) -> None:  # noqa: B027 - not every format has something to do
        """The answer ended: pass on what there is of an unfinished call."""

    def content(self, text: str) -> None:
        """`text` is content, and so is what was held; but white space at its end may still precede a call."""
        shown = text.rstrip()
        if shown:
            self._pass(shown)
        self.hold(text[len(shown) :])

    def hold(self, text: str) -> None:
        """`text` is content only if no call follows."""
        if text:
            self._held.append(text)

    def hold_next(self, count: int) -> None:
        """Hold as many characters of the buffer."""
        self.hold(self.buffer[:count])
        self.buffer = self.buffer[count:]

    def hold_space(self, space: re.Pattern[str] = SPACE) -> None:
        """Hold the white space that the buffer begins with."""
        found = space.match(self.buffer)
        self.hold_next(found.end() if found else 0)

    def hold_mark(self, mark: str, space: re.Pattern[str] = SPACE) -> bool | None:
        """Hold the space and the mark that the buffer begins with.

        True: that was done. False: more text must show whether it is the mark. None: it is not.
        """
        self.hold_space(space)
        if self.buffer.startswith(mark):
            self.hold_next(len(mark))
            return True
        return False if could_begin(self.buffer, mark) and not self.ended else None

    def give_up(self) -> None:
        """What is held is no call."""
        text = "".join(self._held)
        self._held.clear()
        self.content(text)

    def drop_separators(self) -> bool:
        """Drop what is held if it only parts or ends calls; whether it does."""
        if not self._after_call or not self.SEPARATORS.fullmatch("".join(self._held)):
            return False
        self._held.clear()
        return True

    def emit(self, events: list[Event]) -> None:
        """Events of a call, of which what was held is the source."""
        if events:
            self._held.clear()
            self._after_call = True
            self._events += events

    def call_id(self) -> str:
        """An id for a call."""
        return f"call_{secrets.token_hex(12)}"

    def _pass(self, text: str) -> None:
        text = "".join(self._held) + text
        self._held.clear()
        if text:
            self._after_call = False
            self._events.append(Content(text))

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


class JsonToolParser(ToolParser):
    """For formats that write a call as a JSON object."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self.call: JsonCall | None = None
        """The call being read."""

    def begin_call(self, accepts: Callable[[str], bool] = lambda _: True) -> None:
        """What comes next in the buffer is a call."""
        self.call = JsonCall(self.calls, self.call_id(), accepts)

    def feed(self, call: JsonCall) -> State:
        """Give the buffer to the call being read. When it is over the rest is left in the buffer."""
        was_started = call.started
        events, used = call.push(self.buffer)
        self.hold_next(used)
        if call.started:
            self._held.clear()
        self.calls += call.started and not was_started
        self.emit(events)
        if call.over:
            self.call = None
        if call.state == "failed":
            self.give_up()
        return call.state

    def leave(self) -> None:
        if self.call is not None:
            self.emit(self.call.finish())
