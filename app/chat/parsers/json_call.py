"""One tool call written as a JSON object, read while it is being written.

The source of the arguments is passed on as it comes. An object that turns out not to be a call fails, as long
as nothing of it was passed on, and its source is then plain text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

from app.text.events import CallArguments, CallStart, Event

NAME_KEYS = frozenset({"name", "function"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"id", "type"})

State = Literal["open", "key", "in_key", "colon", "value", "in_value", "done", "failed"]


class JsonCall:
    """`{"name": …, "arguments": {…}}` in any order of keys; also Llama's `parameters` and `function`.

    `accepts`: whether there is a tool of that name, for formats in which a call looks like an answer in JSON.
    """

    __slots__ = (
        "_accepts",
        "_arguments",
        "_depth",
        "_escaped",
        "_id",
        "_in_string",
        "_index",
        "_key",
        "_value",
        "raw",
        "started",
        "state",
    )

    def __init__(self, index: int, call_id: str, accepts: Callable[[str], bool] = lambda _: True) -> None:
        self._index = index
        self._id = call_id
        self._accepts = accepts
        self._key = ""
        self._value = ""  # source of the present value, where it is not passed on
        self._arguments = ""  # arguments that came before the name
        self._depth = 0
        self._in_string = self._escaped = False
        self.raw = ""
        """All source so far."""
        self.started = False
        self.state: State = "open"

    @property
    def over(self) -> bool:
        """Whether it takes no more text."""
        return self.state in ("done", "failed")

    def push(self, text: str) -> tuple[list[Event], int]:
        """The events of `text`, and how many of its characters belong to the call."""
        events: list[Event] = []
        for place, char in enumerate(text):
            if self.over:
                return events, place
            self.raw += char
            self._take(char, events)
        return events, len(text)

    def _take(self, char: str, events: list[Event]) -> None:
        match self.state:
            case "open":
                self._expect(char, "{", "key")
            case "key":
                if char == '"':
                    self.state, self._key = "in_key", ""
                elif char == "}":
                    self._close(events)
                elif char != ",":
                    self._skip(char)
            case "in_key":
                if char == '"':
                    self._know_key()
                else:
                    self._key += char
            case "colon":
                self._expect(char, ":", "value")
            case "value":
                if not char.isspace():
                    self.state, self._value, self._depth = "in_value", "", 0
                    self._in_string = self._escaped = False
                    self._in_value(char, events)
            case "in_value":
                self._in_value(char, events)

    def _expect(self, char: str, wanted: str, then: State) -> None:
        if char == wanted:
            self.state = then
        else:
            self._skip(char)

    def _skip(self, char: str) -> None:
        """Between the parts only white space may stand; once the call has begun, anything is passed over."""
        if not char.isspace() and not self.started:
            self.state = "failed"

    def _know_key(self) -> None:
        known = self._key in NAME_KEYS or self._key in ARGUMENT_KEYS or self._key in OTHER_KEYS
        self.state = "colon" if known or self.started else "failed"

    def _in_value(self, char: str, events: list[Event]) -> None:
        """One character of a value, which ends with its last bracket or quote, or before `,` and `}`."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
            self._add(char, events)
            if not self._in_string and self._depth == 0:
                self._end_value(events)
        elif char == '"':
            self._in_string = True
            self._add(char, events)
        elif char in "{[":
            self._depth += 1
            self._add(char, events)
        elif char in "}]" and self._depth:
            self._depth -= 1
            self._add(char, events)
            if self._depth == 0:
                self._end_value(events)
        elif self._depth == 0 and char in ",}]":
            self._end_value(events)
            if char != "," and not self.over:
                self._close(events)
        else:
            self._add(char, events)

    def _add(self, char: str, events: list[Event]) -> None:
        first = self._value[:1] or char
        self._value += char
        if self._key in ARGUMENT_KEYS and self.started and first == "{" and not self._arguments:
            if events and isinstance(events[-1], CallArguments):
                events[-1].text += char
            else:
                events.append(CallArguments(self._index, char))

    def _end_value(self, events: list[Event]) -> None:
        self.state = "key"
        value = self._value.strip()
        if self._key in NAME_KEYS and not self.started:
            self._start(value, events)
        elif self._key in ARGUMENT_KEYS and not self._arguments:
            self._arguments = value if value[:1] == "{" else _plain(value)
            if self.started and value[:1] != "{":
                events.append(CallArguments(self._index, self._arguments))

    def _start(self, value: str, events: list[Event]) -> None:
        name = _string(value)
        if not name or not self._accepts(name):
            self.state = "failed"
            return
        self.started = True
        events.append(CallStart(self._index, self._id, name))
        if self._arguments:
            events.append(CallArguments(self._index, self._arguments))

    def _close(self, events: list[Event]) -> None:
        if not self.started:
            self.state = "failed"
            return
        self.state = "done"
        if not self._arguments:
            events.append(CallArguments(self._index, "{}"))


class BareArguments(JsonCall):
    """The arguments alone, of a call whose name is known already; it is over where they end."""

    __slots__ = ()

    def __init__(self, index: int, call_id: str) -> None:
        super().__init__(index, call_id)
        self.started = True
        self.state = "value"
        self._key = "arguments"

    def _end_value(self, events: list[Event]) -> None:
        super()._end_value(events)
        self.state = "done"


def _string(source: str) -> str | None:
    try:
        value = json.loads(source)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _plain(source: str) -> str:
    """Arguments that are not an object: a text that holds one, null for none, or what they are."""
    if source == "null":
        return "{}"
    return _string(source) or source or "{}"
