"""Tool calls written as a list of Python calls, `[f(a=1), g(b="x")]`: Llama 3.2 and 4, and others.

Each argument is emitted as soon as it is complete. Only literals are parsed; no code is evaluated.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any, Literal

from trtllm_openai.chat.parsers.marker import split_at_any
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.text.events import CallArguments, CallStart

FUNCTION = re.compile(r"[\w.-]*")
LONGEST_NAME = 128
IN_STRING = {quote: re.compile(rf"[{quote}\\]") for quote in "\"'"}
IN_CODE = re.compile(r"""["'()\[\]{},]""")


class Pythonic(ToolParser):
    """The whole response is such a list; after `<|python_start|>` it may also follow text."""

    BEGIN, END = "<|python_start|>", "<|python_end|>"
    SEPARATORS = re.compile(r"[\s,]*")

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._state: Literal["begin", "name", "arguments", "between", "plain"] = "begin"
        self._argument: list[str] = []  # source text of the current argument
        self._nesting: list[str] = []  # open brackets; a quote while inside a string
        self._escaped = False
        self._given = 0  # arguments emitted for the current call

    def advance(self) -> bool:
        match self._state:
            case "begin":
                return self._begin()
            case "name":
                return self._read_name()
            case "arguments":
                return self._read_arguments()
            case "between":
                return self._between()
            case "plain":
                return self._pass_text()

    def leave(self) -> None:
        if self._state == "arguments":
            self._pass_on()

    def _begin(self) -> bool:
        found = self.hold_mark(self.BEGIN)
        if found is not None:
            return found
        if self.buffer.startswith("["):
            self.hold_next(1)
            self._state = "name"
        else:
            self._turn_plain()
        return True

    def _read_name(self) -> bool:
        """Parse the name of the next call and its bracket, or the end of the list after a trailing comma."""
        self.hold_space()
        found = FUNCTION.match(self.buffer, 0, LONGEST_NAME)
        name = found.group() if found else ""
        rest = self.buffer[len(name) :]
        if not rest and len(name) < LONGEST_NAME and not self.ended:
            return False
        if rest.startswith("(") and name in self.names:
            self.emit([CallStart(self.calls, self.call_id(), name)])
            self.calls += 1
            self._state, self._given = "arguments", 0
            self.buffer = rest[1:]
        elif rest.startswith("]") and not name:
            self._state = "between"
        else:
            self._turn_plain()
        return True

    def _between(self) -> bool:
        self.hold_space()
        if self.buffer.startswith(","):
            self.hold_next(1)
            self._state = "name"
        elif self.buffer:
            if self.buffer.startswith("]") and self.drop_separators():
                self.buffer = self.buffer[1:]
            self._turn_plain()
        return True

    def _turn_plain(self) -> None:
        self.give_up()
        self._state = "plain"

    def _pass_text(self) -> bool:
        """Emit content, and drop the end marker after calls."""
        before, mark = split_at_any(self.buffer, (self.BEGIN, self.END) if self.calls else (self.BEGIN,))
        self.content(before)
        self.buffer = self.buffer[len(before) :]
        if mark == self.END:
            self.buffer = self.buffer[len(mark) :]
        elif mark is not None:
            self._state = "begin"
        return mark is not None

    def _read_arguments(self) -> bool:
        """Consume argument source up to the next character that changes the state."""
        text = self.buffer
        if self._escaped:
            self._escaped = False
            self._take(1)
            return True
        inside = self._nesting[-1] if self._nesting else ""
        found = IN_STRING.get(inside, IN_CODE).search(text)
        if found is None:
            self._take(len(text))
            return False
        self._take(found.start())
        self._meet(found.group(), inside)
        return True

    def _meet(self, char: str, inside: str) -> None:
        """Handle `char`, the first of the buffer: a bracket, quote, backslash or comma."""
        if not self._nesting and char in ",)]":
            self._pass_on()
            if char != ",":  # `]` without `)`: the end of the list ends the call
                self.emit([CallArguments(self.calls - 1, "}" if self._given else "{}")])
                self._state = "between"
            self.buffer = self.buffer[char != "]" :]
            return
        if char == "\\":
            self._escaped = True
        elif char in ")]}" or (inside in IN_STRING and char == inside):
            del self._nesting[-1:]
        elif char != ",":
            self._nesting.append(char)
        self._take(1)

    def _take(self, count: int) -> None:
        """Move `count` characters of the buffer to the source of the current argument."""
        if count:
            self._argument.append(self.buffer[:count])
            self.buffer = self.buffer[count:]

    def _pass_on(self) -> None:
        source = "".join(self._argument).strip()
        self._argument.clear()
        if source:
            name, value = _read(source, self._given)
            piece = f"{', ' if self._given else '{'}{json.dumps(name)}: {json.dumps(value)}"
            self._given += 1
            self.emit([CallArguments(self.calls - 1, piece)])


def _read(source: str, position: int) -> tuple[str, Any]:
    """Name and value of `name=literal`, a literal of JSON or of Python. Anything else stays a string."""
    name, equals, value = source.partition("=")
    name = name.strip()
    if not equals or not name.isidentifier():
        name, value = f"argument_{position}", source
    value = value.strip()
    for read in (json.loads, ast.literal_eval):
        try:
            literal = read(value)
            json.dumps(literal, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return name, literal
    return name, value
