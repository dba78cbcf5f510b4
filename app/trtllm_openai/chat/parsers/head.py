"""The head of a tool call: a sequence of terminals from its first mark to its arguments.

The same sequence reads a call's head from streamed text and writes the one that a demanded call must have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SPACE = re.compile(r"\s{0,16}")
NAME = re.compile(r"[\w.-]{1,128}")
NUMBERED_NAME = re.compile(r"[\w.:-]{1,160}")
NUMBER = re.compile(r":[0-9]{1,9}$")

Reading = int | Literal["more", "no"]
"""The position after a terminal, or that more text is needed to know, or that it is not there."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A fixed text. One that is `optional` may be missing in what is read; it is always written."""

    text: str
    optional: bool = False

    def read(self, text: str, place: int, *, ended: bool) -> Reading:
        if text.startswith(self.text, place):
            return place + len(self.text)
        if not ended and self.text.startswith(text[place:]):
            return "more"
        return place if self.optional else "no"


@dataclass(frozen=True, slots=True)
class Space:
    """At most 16 characters of white space, or none; `written` is that of the model's own template."""

    written: str = ""

    def read(self, text: str, place: int, *, ended: bool) -> Reading:
        found = SPACE.match(text, place)
        return found.end() if found else place


@dataclass(frozen=True, slots=True)
class Name:
    """The tool's name after `before`; `numbered`: a colon and the call's number follow, and all is its id."""

    before: str = ""
    numbered: bool = False

    def read(self, text: str, place: int, *, ended: bool) -> Reading:
        found = (NUMBERED_NAME if self.numbered else NAME).match(text, place)
        if found is None:
            return "no" if place < len(text) or ended else "more"
        return found.end() if found.end() < len(text) or ended else "more"


@dataclass(frozen=True, slots=True)
class Word:
    """A word without meaning for the call; `written` is the usual one."""

    written: str

    def read(self, text: str, place: int, *, ended: bool) -> Reading:
        return Name().read(text, place, ended=ended)


@dataclass(frozen=True, slots=True)
class Next:
    """One of several texts, with which the arguments, or their absence, begin. It is not part of the head."""

    texts: tuple[str, ...]

    def read(self, text: str, place: int, *, ended: bool) -> Reading:
        if any(text.startswith(one, place) for one in self.texts):
            return place
        rest = text[place:]
        return "more" if not ended and any(one.startswith(rest) for one in self.texts) else "no"


Terminal = Mark | Space | Name | Word | Next


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was read: the tool's name, the id if the model gave one, and the number of characters."""

    name: str
    id: str | None
    length: int


def read_head(terminals: tuple[Terminal, ...], text: str, *, ended: bool) -> Head | Literal["more", "no"]:
    """Read a head at the beginning of `text`. `ended`: no more text will come."""
    place, name, call_id = 0, "", None
    for terminal in terminals:
        after = terminal.read(text, place, ended=ended)
        if not isinstance(after, int):
            return after
        if isinstance(terminal, Name):
            name = text[place:after].removeprefix(terminal.before)
            if terminal.numbered:
                name, call_id = NUMBER.sub("", name), text[place:after]
            if not name:
                return "no"
        place = after
    return Head(name, call_id, place)


def write_head(terminals: tuple[Terminal, ...], name: str) -> tuple[str, str | None]:
    """The head of a call of `name`: its text, and what follows the number for a numbered name, else None."""
    parts, rest = [""], None
    for terminal in terminals:
        match terminal:
            case Mark():
                parts[-1] += terminal.text
            case Space() | Word():
                parts[-1] += terminal.written
            case Name():
                parts[-1] += f"{terminal.before}{name}"
                if terminal.numbered:
                    parts[-1] += ":"
                    parts.append("")
    if len(parts) > 1:
        rest = parts[1]
    return parts[0], rest
