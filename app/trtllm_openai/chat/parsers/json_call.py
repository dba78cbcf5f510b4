"""Streaming parser of one tool call written as a JSON object.

The source text of the arguments is emitted as it arrives. An object that is not a call fails before any event
of it is emitted; a call that becomes invalid after its start ends there. Time is linear in the length of the
text, however it is chunked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from trtllm_openai.chat.parsers.json_value import JsonValue
from trtllm_openai.text.events import CallArguments, CallStart, Event

NAME_KEYS = frozenset({"name", "function"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"id", "type"})
QUOTED_KEYS = tuple(f'"{key}"' for key in NAME_KEYS | ARGUMENT_KEYS | OTHER_KEYS)
LONGEST_KEY = max(map(len, QUOTED_KEYS))

STRING_BEGINNING = re.compile(r'"(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')

State = Literal["open", "key", "in_key", "colon", "value", "in_value", "done", "failed"]


class JsonCall:
    """`{"name": …, "arguments": {…}}` in any order of keys; also Llama's `parameters` and `function`.

    `accepts`: tells whether a tool of that name exists, for formats in which a call looks like JSON content.
    """

    __slots__ = (
        "_accepts",
        "_early",
        "_given",
        "_id",
        "_index",
        "_key",
        "_passing",
        "_source",
        "_value",
        "started",
        "state",
    )

    def __init__(self, index: int, call_id: str, accepts: Callable[[str], bool] = lambda _: True) -> None:
        self._index = index
        self._id = call_id
        self._accepts = accepts
        self._key = ""  # including quotes while it is being read
        self._value = JsonValue()
        self._source: list[str] = []  # source text of the current value, unless it is emitted directly
        self._passing = False
        self._early = ""  # arguments that preceded the name
        self._given = False  # arguments were emitted or stored
        self.started = False
        self.state: State = "open"

    @property
    def over(self) -> bool:
        """Whether the call takes no more text."""
        return self.state in ("done", "failed")

    def push(self, text: str) -> tuple[list[Event], int]:
        """Parse `text`. Returns the events and the number of characters that belong to the call."""
        events: list[Event] = []
        index = 0
        while index < len(text) and not self.over:
            index += self._step(text, index, events)
        return events, index

    def finish(self, rest: str = "") -> list[Event]:
        """End of the text: for a truncated call with arguments as a JSON string, emit the readable part."""
        if not self.started or self.state != "in_value" or self._key not in ARGUMENT_KEYS or self._given:
            return []
        found = STRING_BEGINNING.match("".join(self._source))
        text = found and _string(found.group() + '"')
        return [CallArguments(self._index, text)] if text else []

    def _step(self, text: str, index: int, events: list[Event]) -> int:
        """Parse from `index`. Returns the number of characters consumed, 0 for a mere change of state."""
        if self.state == "in_value":
            return self._in_value(text, index, events)
        if self.state == "in_key":
            return self._in_key(text, index)
        char = text[index]
        if char.isspace():
            return 1
        match self.state, char:
            case "open", "{":
                self.state = "key"
            case "colon", ":":
                self.state = "value"
            case "value", _:
                self._begin_value(char)
                return 0
            case "key", '"':
                self.state, self._key, self._value = "in_key", "", JsonValue()
                return 0
            case "key", ",":
                pass
            case "key", "}" if self.started:
                self.state = "done"
                if not self._given:
                    events.append(CallArguments(self._index, "{}"))
            case _:
                self.state = "done" if self.started else "failed"
                return 0
        return 1

    def _in_key(self, text: str, index: int) -> int:
        """Parse a key. An unknown key before the call's start means that the object is not a call."""
        end = self._value.scan(text, index) if self.started else index + 1
        key = (self._key + text[index:end])[: LONGEST_KEY + 1]
        if not self.started and not any(known.startswith(key) for known in QUOTED_KEYS):
            self.state = "failed"
            return 0
        self._key = key
        if self._value.over or key in QUOTED_KEYS:
            self.state, self._key = "colon", key[1:-1]
        return end - index

    def _begin_value(self, first: str) -> None:
        self.state, self._value = "in_value", JsonValue()
        self._source.clear()
        self._passing = self.started and self._wanted and first in "{["

    @property
    def _wanted(self) -> bool:
        """Whether the current value is the arguments."""
        return self._key in ARGUMENT_KEYS and not self._given

    def _in_value(self, text: str, index: int, events: list[Event]) -> int:
        end = self._value.scan(text, index)
        piece = text[index:end]
        if self._passing:
            if piece:
                events.append(CallArguments(self._index, piece))
        elif self._wanted or not self.started:
            self._source.append(piece)
        if self._value.over:
            self._end_value(events)
        return end - index

    def _end_value(self, events: list[Event]) -> None:
        self.state = "key"
        if self._key in NAME_KEYS and not self.started:
            self._start(_string("".join(self._source)), events)
        elif self._wanted:
            self._given = True
            if self._passing:
                return
            self._early = _plain("".join(self._source).strip())
            if self.started:
                events.append(CallArguments(self._index, self._early))

    def _start(self, name: str | None, events: list[Event]) -> None:
        if not name or not self._accepts(name):
            self.state = "failed"
            return
        self.started = True
        events.append(CallStart(self._index, self._id, name))
        if self._early:
            events.append(CallArguments(self._index, self._early))


class BareArguments(JsonCall):
    """Only the arguments of a call, for formats that give its name outside the JSON."""

    __slots__ = ()

    def __init__(self, index: int) -> None:
        super().__init__(index, "")
        self.started = True
        self.state = "value"
        self._key = "arguments"

    def _end_value(self, events: list[Event]) -> None:
        super()._end_value(events)
        self.state = "done"


def _string(source: str) -> str | None:
    """Decode a JSON string; None if it is not one. Lone surrogates become `?`."""
    try:
        value = json.loads(source, strict=False)
    except (ValueError, RecursionError):
        return None
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None


def _plain(source: str) -> str:
    """Normalise arguments to JSON source: decode a JSON string; null or empty becomes `{}`."""
    if source[:1] == '"':
        text = _string(source)
        source = source if text is None else text.strip()
    return "{}" if source in ("", "null") else source
