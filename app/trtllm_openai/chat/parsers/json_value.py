"""Finding the end of a JSON value in a text that comes in pieces."""

from __future__ import annotations

import re

IN_STRING = re.compile(r'["\\]')
NESTED = re.compile(r'["{}\[\]<]')
FLAT = re.compile(r'["{}\[\],<]')


class JsonValue:
    """One value: it ends with its last bracket or quote, or before a `,` or bracket that is not its own.

    Outside of strings it also ends before `<`, which is never JSON but begins the tag that ends a call.
    """

    __slots__ = ("_depth", "_escaped", "_in_string", "over")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False
        self.over = False
        """Whether the end was found."""

    def scan(self, text: str, place: int) -> int:
        """Where it ends in `text`, of which it goes on at `place`."""
        while place < len(text) and not self.over:
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            pattern = IN_STRING if self._in_string else NESTED if self._depth else FLAT
            found = pattern.search(text, place)
            if found is None:
                return len(text)
            place = found.start() + self._take(found.group())
        return place

    def _take(self, char: str) -> int:
        """1 when `char` belongs to the value, else 0."""
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
