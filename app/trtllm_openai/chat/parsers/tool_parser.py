"""Base classes of the tool-call parsers.

A parser consumes text and emits events. Text outside calls is emitted unchanged as content; only white space
before a call, and separators between and after calls, are dropped. A truncated call keeps the part that was
emitted. The events do not depend on how the text is chunked, and time is linear in its length.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from trtllm_openai.chat.parsers.json_call import JsonCall, State
from trtllm_openai.chat.parsers.marker import could_begin
from trtllm_openai.text.events import Content, Event

SPACE = re.compile(r"\s*")
LONGEST_PIECE = 256
"""Characters added to the buffer at a time: consuming copies the rest of the buffer."""


class ToolParser(ABC):
    """Manages the buffer, held-back text, content and the numbering of calls.

    A subclass consumes `self.buffer` in `advance`, which is called until it returns False. For linear time it
    must leave little in the buffer: longer text is moved to the held-back text with `hold`.
    """

    SEPARATORS = SPACE
    """Text between or after calls that is not content."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: the tools that may be called; a mapping gives the schema of each one's parameters.

        The schemas tell text from numbers in formats whose arguments do not (`<parameter=zip>01234`).
        """
        self.names = frozenset(names)
        self.schemas: Mapping[str, Any] = names if isinstance(names, Mapping) else {}
        self.buffer = ""
        self.calls = 0
        self.ended = False
        self._held: list[str] = []  # content, unless a call begins next
        self._after_call = False  # since the last call there was only held-back text
        self._events: list[Event] = []

    def push(self, text: str) -> list[Event]:
        """Parse `text`. Returns the events that no later text can change."""
        for start in range(0, len(text), LONGEST_PIECE):
            self.buffer += text[start : start + LONGEST_PIECE]
            while self.buffer and self.advance():
                pass
        return self._taken()

    def finish(self) -> list[Event]:
        """End of the text. Returns the events for everything that was held back."""
        self.ended = True
        while self.buffer and self.advance():
            pass
        self.leave()
        self.hold(self.buffer)
        self.buffer = ""
        self.drop_separators()
        self._pass("")
        return self._taken()

    @property
    def in_reasoning(self) -> bool:
        """Whether the parser is inside reasoning, for formats in which it alternates with calls."""
        return False

    @abstractmethod
    def advance(self) -> bool:
        """Consume from the buffer. Returns False if more text is needed."""

    def leave(self) -> None:  # noqa: B027 - not every format has something to do
        """End of the text: emit the rest of a truncated call."""

    def content(self, text: str) -> None:
        """Emit held-back text and `text` as content; hold trailing white space in case a call follows."""
        stripped = text.rstrip()
        if stripped:
            self._pass(stripped)
        self.hold(text[len(stripped) :])

    def hold(self, text: str) -> None:
        """Hold back `text`: it is content unless a call follows."""
        if text:
            self._held.append(text)

    def hold_next(self, count: int) -> None:
        """Hold back the first `count` characters of the buffer."""
        self.hold(self.buffer[:count])
        self.buffer = self.buffer[count:]

    def hold_space(self, space: re.Pattern[str] = SPACE) -> None:
        """Hold back leading white space of the buffer."""
        found = space.match(self.buffer)
        self.hold_next(found.end() if found else 0)

    def hold_mark(self, mark: str, space: re.Pattern[str] = SPACE) -> bool | None:
        """Hold back leading white space and the marker after it.

        Returns True if the marker was there, False if more text is needed to know, None if it is not there.
        """
        self.hold_space(space)
        if self.buffer.startswith(mark):
            self.hold_next(len(mark))
            return True
        return False if could_begin(self.buffer, mark) and not self.ended else None

    def give_up(self) -> None:
        """Turn the held-back text into content: it was not a call."""
        text = "".join(self._held)
        self._held.clear()
        self.content(text)

    def drop_separators(self) -> bool:
        """Drop the held-back text if it is only separators after a call. Returns whether it is."""
        if not self._after_call or not self.SEPARATORS.fullmatch("".join(self._held)):
            return False
        self._held.clear()
        return True

    def emit(self, events: list[Event]) -> None:
        """Emit events of a call, and drop the held-back text, which was its source."""
        if events:
            self._held.clear()
            self._after_call = True
            self._events += events

    def call_id(self) -> str:
        """A new call id."""
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


class CallReader(Protocol):
    """Reads one call, or the arguments of one: `JsonCall`, and those of formats that are not JSON."""

    started: bool
    """Whether the call's start is certain; what comes later no longer makes it text."""
    state: Any
    """`done` and `failed` are final."""

    @property
    def over(self) -> bool:
        """Whether the call takes no more text."""

    def push(self, text: str) -> tuple[list[Event], int]:
        """Parse `text`. Returns the events and the number of characters that were consumed."""

    def finish(self, rest: str) -> list[Event]:
        """End of the text, whose last characters, `rest`, were not consumed."""


class CallParser(ToolParser):
    """Base class for formats whose calls are read one after another, each by a `CallReader`."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self.call: CallReader | None = None
        """The call being parsed."""

    def begin_call(self, accepts: Callable[[str], bool] = lambda _: True) -> None:
        """Start parsing a call as a JSON object at the beginning of the buffer."""
        self.call = JsonCall(self.calls, self.call_id(), accepts)

    def feed(self, call: CallReader) -> State:
        """Parse the buffer as part of `call`. Text after the end of the call stays in the buffer."""
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
        state: State = call.state
        return state

    def leave(self) -> None:
        if self.call is not None:
            events = self.call.finish(self.buffer)
            if self.call.started:
                self.buffer = ""
            self.emit(events)
