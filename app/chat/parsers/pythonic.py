"""Tool calls written as a list of Python calls, `[f(a=1), g(b="x")]`: Llama 3.2 and 4, and others.

Arguments are passed on one by one, as soon as each is complete. Only literals are read; nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection
from typing import Any, Literal

from app.chat.parsers.marker import could_begin, split_at
from app.chat.parsers.tools import ToolParser
from app.text.events import CallArguments, CallStart

LONGEST_NAME = 128
CONSTANTS = {"true": True, "false": False, "null": None}


class Pythonic(ToolParser):
    """The whole answer is such a list, maybe between `<|python_start|>` and `<|python_end|>`."""

    BEGIN, END = "<|python_start|>", "<|python_end|>"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._state: Literal["begin", "name", "arguments", "between", "plain"] = "begin"
        self._held = ""  # source of what may turn out to be text
        self._name = ""
        self._argument = ""
        self._nesting: list[str] = []  # open brackets; a quote while inside a string
        self._escaped = False
        self._given = 0  # arguments passed on

    def advance(self) -> bool:
        if self._beginning:
            return self._begin()
        if self._plain:
            return self._pass_text()
        return self._scan()

    def _scan(self) -> bool:
        """Take what is inside of the list."""
        text, self.buffer = self.buffer, ""
        for place, char in enumerate(text):
            self._take(char)
            if self._plain:
                self.buffer = text[place + 1 :]
                return True
        return False

    def leave(self) -> None:
        if self._state == "name" and not self.calls:
            self.content(self._held)
        elif self._state == "arguments":
            self._pass_on(last=False)

    @property
    def _beginning(self) -> bool:
        return self._state == "begin"

    @property
    def _plain(self) -> bool:
        return self._state == "plain"

    def _pass_text(self) -> bool:
        """Pass on content without the end mark."""
        before, after = split_at(self.buffer, self.END)
        self.content(before)
        self.buffer = self.buffer[len(before) :] if after is None else after
        return after is not None

    def _begin(self) -> bool:
        rest = self.buffer.lstrip()
        if rest.startswith(self.BEGIN):
            rest = rest.removeprefix(self.BEGIN).lstrip()
        elif could_begin(rest, self.BEGIN) and not self.ended:
            return False
        if not rest:
            return False
        if rest[0] != "[":
            self._state = "plain"
            return True
        self._state, self._held, self.buffer = "name", "[", rest[1:]
        return True

    def _take(self, char: str) -> None:
        match self._state:
            case "name":
                self._held += char
                self._in_name(char)
            case "arguments":
                self._in_arguments(char)
            case "between":
                if char == ",":
                    self._state = "name"
                elif char == "]":
                    self._state = "plain"

    def _in_name(self, char: str) -> None:
        if char == "(" and self._name in self.names:
            self.emit([CallStart(self.calls, self.call_id(), self._name)])
            self.calls += 1
            self._state, self._argument, self._given = "arguments", "", 0
            self._nesting.clear()
        elif (char.isalnum() or char in "_.-") and len(self._name) < LONGEST_NAME:
            self._name += char
        elif not (char.isspace() and not self._name):
            self._state = "plain"
            if not self.calls:
                self.content(self._held)

    def _in_arguments(self, char: str) -> None:
        inside = self._nesting[-1] if self._nesting else ""
        if inside and inside in "'\"":
            self._argument += char
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == inside:
                self._nesting.pop()
            return
        if char in ",)" and not self._nesting:
            self._pass_on(last=char == ")")
            return
        self._argument += char
        if char in "([{'\"":
            self._nesting.append(char)
        elif char in ")]}" and self._nesting:
            self._nesting.pop()

    def _pass_on(self, *, last: bool) -> None:
        source, self._argument = self._argument.strip(), ""
        piece = ""
        if source:
            name, value = _read(source, self._given)
            piece = (", " if self._given else "{") + json.dumps(name) + ": " + json.dumps(value)
            self._given += 1
        if last:
            piece += "}" if self._given else "{}"
            self._state, self._name = "between", ""
        if piece:
            self.emit([CallArguments(self.calls - 1, piece)])


def _read(source: str, position: int) -> tuple[str, Any]:
    """Name and value of `name=literal`; what is no literal stays the text it is."""
    name, equals, value = source.partition("=")
    name = name.strip()
    if not equals or not name.isidentifier():
        name, value = f"argument_{position}", source
    value = value.strip()
    if value in CONSTANTS:
        return name, CONSTANTS[value]
    try:
        literal = ast.literal_eval(value)
        json.dumps(literal, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name, value
    return name, literal
