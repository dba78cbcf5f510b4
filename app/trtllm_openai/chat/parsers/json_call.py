"""One tool call written as a JSON object, read while it is being written.

The source of the arguments is passed on as it comes. An object that turns out not to be a call fails, as long
as nothing of it was passed on; a call that has begun and goes wrong ends where it does. The work is linear in
the length of the text, however it is cut.
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

    `accepts`: whether there is a tool of that name, for formats in which a call looks like an answer in JSON.
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
        self._key = ""  # with its quotes while it is read
        self._value = JsonValue()
        self._source: list[str] = []  # of the present value, where it is not passed on
        self._passing = False
        self._early = ""  # arguments that came before the name
        self._given = False  # there were arguments
        self.started = False
        self.state: State = "open"

    @property
    def over(self) -> bool:
        """Whether it takes no more text."""
        return self.state in ("done", "failed")

    def push(self, text: str) -> tuple[list[Event], int]:
        """The events of `text`, and how many of its characters belong to the call."""
        events: list[Event] = []
        place = 0
        while place < len(text) and not self.over:
            place += self._step(text, place, events)
        return events, place

    def finish(self) -> list[Event]:
        """What is left of a call that was cut off: as much of a text of arguments as can be read."""
        if not self.started or self.state != "in_value" or self._key not in ARGUMENT_KEYS or self._given:
            return []
        found = STRING_BEGINNING.match("".join(self._source))
        text = found and _string(found.group() + '"')
        return [CallArguments(self._index, text)] if text else []

    def _step(self, text: str, place: int, events: list[Event]) -> int:
        """Read on from `place`; how many characters were taken, which is 0 when only the state changed."""
        if self.state == "in_value":
            return self._in_value(text, place, events)
        if self.state == "in_key":
            return self._in_key(text, place)
        char = text[place]
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

    def _in_key(self, text: str, place: int) -> int:
        """A key may be any once the call has begun; before, it must be known, or this is no call."""
        end = self._value.scan(text, place) if self.started else place + 1
        key = (self._key + text[place:end])[: LONGEST_KEY + 1]
        if not self.started and not any(known.startswith(key) for known in QUOTED_KEYS):
            self.state = "failed"
            return 0
        self._key = key
        if self._value.over or key in QUOTED_KEYS:
            self.state, self._key = "colon", key[1:-1]
        return end - place

    def _begin_value(self, first: str) -> None:
        self.state, self._value = "in_value", JsonValue()
        self._source.clear()
        self._passing = self.started and self._wanted and first in "{["

    @property
    def _wanted(self) -> bool:
        """Whether the present value is the arguments."""
        return self._key in ARGUMENT_KEYS and not self._given

    def _in_value(self, text: str, place: int, events: list[Event]) -> int:
        end = self._value.scan(text, place)
        piece = text[place:end]
        if self._passing:
            if piece:
                events.append(CallArguments(self._index, piece))
        elif self._wanted or not self.started:
            self._source.append(piece)
        if self._value.over:
            self._end_value(events)
        return end - place

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
    """The arguments alone, of a call whose name is known already; it is over where they end."""

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
    """The text that `source` stands for; None when it is none. Half a surrogate pair becomes `?`."""
    try:
        value = json.loads(source, strict=False)
    except (ValueError, RecursionError):
        return None
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None


def _plain(source: str) -> str:
    """Arguments as source: a text may hold them, and null or nothing stands for none."""
    if source[:1] == '"':
        text = _string(source)
        source = source if text is None else text.strip()
    return "{}" if source in ("", "null") else source
