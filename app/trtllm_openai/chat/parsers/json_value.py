"""Finds the end of a JSON value in streamed text."""

from __future__ import annotations

import re

IN_STRING = re.compile(r'["\\]')
NESTED = re.compile(r'["{}\[\]<]')
FLAT = re.compile(r'["{}\[\],<]')


class JsonValue:
    """One value. It ends with its closing bracket or quote, or before a `,` or bracket of its parent.

    Outside strings it also ends before `<`, which is not JSON but begins the end tag of a call.
    """

    __slots__ = ("_depth", "_escaped", "_in_string", "over")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False
        self.over = False
        """Whether the end of the value was found."""

    def scan(self, text: str, index: int) -> int:
        """Scan `text` from `index`. Returns the end of the value in `text`, or `len(text)`."""
        while index < len(text) and not self.over:
            if self._escaped:
                self._escaped = False
                index += 1
                continue
            pattern = IN_STRING if self._in_string else NESTED if self._depth else FLAT
            found = pattern.search(text, index)
            if found is None:
                return len(text)
            index = found.start() + self._take(found.group())
        return index

    def _take(self, char: str) -> int:
        """Returns 1 if `char` belongs to the value, else 0."""
        match char:
            case "\\":
                self._escaped = True
            case '"':
                self._in_string = not self._in_string
                self.over = not self._in_string and self._depth == 0
            case "{" | "[":
                self._depth += 1
            case "}" | "]" if self._depth:
                self._depth -= 1
                self.over = self._depth == 0
            case _:
                self.over = True
                return 0
        return 1
