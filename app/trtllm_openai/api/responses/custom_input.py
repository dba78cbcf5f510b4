"""The input of a custom tool, read from the arguments of the function that stands for it as they come.

The model writes `{"input": "ls\\n"}` piece by piece; the client gets `ls` and a line break. Arguments of
another form are the input as they are, once they are complete: a wrong call is the client's to refuse.
"""

from __future__ import annotations

import json
import re

from trtllm_openai.api.responses.tools import INPUT

_BEGIN = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
_LONGEST_BEGIN = 64
"""Characters within which the string begins, or else the arguments are of another form."""
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\[^u]", re.DOTALL)
_HIGH, _LOW = re.compile(r"\\u[dD][89abAB]\w\w"), re.compile(r"\\u[dD][c-fC-F]\w\w")
"""The halves of a surrogate pair."""
_HALF_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?")


class CustomInput:
    """`push` and `finish` return the next text of the input; their sum does not depend on the pieces."""

    __slots__ = ("_buffer", "_state")

    def __init__(self) -> None:
        self._buffer = ""
        self._state = "before"

    def push(self, arguments: str) -> str:
        """Read the next piece of JSON."""
        if self._state == "after":
            return ""
        self._buffer += arguments
        if self._state == "before":
            begin = _BEGIN.match(self._buffer)
            if begin is not None and begin.end() <= _LONGEST_BEGIN:
                self._buffer = self._buffer[begin.end() :]
                self._state = "inside"
            elif len(self._buffer) > _LONGEST_BEGIN:
                self._state = "other"
        return self._string() if self._state == "inside" else ""

    def finish(self) -> str:
        """The arguments are complete, or were cut: what is left of the input."""
        rest, self._buffer = self._buffer, ""
        if self._state in ("inside", "after"):
            return ""
        try:
            value = json.loads(rest)
        except ValueError:
            return rest
        given = value.get(INPUT) if isinstance(value, dict) else value
        return given if isinstance(given, str) else rest

    def _string(self) -> str:
        """Decode what can be decoded of the string; half an escape waits for its other half."""
        pieces, position, text = [], 0, self._buffer
        while position < len(text):
            next_mark = min(
                (at for at in (text.find('"', position), text.find("\\", position)) if at >= 0),
                default=len(text),
            )
            pieces.append(text[position:next_mark])
            position = next_mark
            if position == len(text):
                break
            if text[position] == '"':
                self._state = "after"
                break
            escaped = _ESCAPE.match(text, position)
            if escaped is None:
                if _HALF_ESCAPE.fullmatch(text, position):
                    break
                pieces.append(text[position])  # no JSON: kept as it is
                position += 1
                continue
            end = escaped.end()
            if _is_high(escaped[0]):
                if end == len(text) or _HALF_ESCAPE.fullmatch(text, end):
                    break
                low = _ESCAPE.match(text, end)
                if low is not None and _is_low(low[0]):
                    end = low.end()
            pieces.append(_decoded(text[position:end]))
            position = end
        self._buffer = text[position:]
        return "".join(pieces)


def _is_high(escape: str) -> bool:
    return _HIGH.fullmatch(escape) is not None


def _is_low(escape: str) -> bool:
    return _LOW.fullmatch(escape) is not None


def _decoded(escape: str) -> str:
    """The text of one escape, or of a surrogate pair; half of a pair is no text."""
    try:
        text: str = json.loads(f'"{escape}"')
    except ValueError:
        return escape
    return text.encode("utf-8", "replace").decode()
