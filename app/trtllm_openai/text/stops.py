"""Stop strings in streamed text: text that could be the beginning of a stop string is held back.

One Knuth-Morris-Pratt automaton per stop string, so the result does not depend on how the text is chunked
and the time is linear in the text for self-repeating stop strings too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


class StopMatcher:
    """Finds the first complete stop string; the longest, if several end at the same character."""

    __slots__ = ("_fallbacks", "_firsts", "_held", "_include", "_states", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`stops`: non-empty strings. `include`: keep the matched string in the text."""
        self._include = include
        tables = compiled(tuple(stops))
        self._stops, self._fallbacks, self._firsts = tables.stops, tables.fallbacks, tables.firsts
        self._states = [0] * len(self._stops)  # per stop string: length of its prefix that the text ends in
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Returns the text that cannot be part of a stop string. After a match this is the last text."""
        if not self._held and self._firsts.isdisjoint(text):
            return text
        for index, char in enumerate(text):
            stop = self._advance(char)
            if stop is not None:
                self.matched = stop
                seen = self._held + text[: index + 1]
                self._held = ""
                return seen if self._include else seen[: len(seen) - len(stop)]
        seen = self._held + text
        safe = len(seen) - max(self._states)
        self._held = seen[safe:]
        return seen[:safe]

    def flush(self) -> str:
        """End of the text. Returns the text that was held back."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str | None:
        for index, stop in enumerate(self._stops):
            state, fallbacks = self._states[index], self._fallbacks[index]
            while state and stop[state] != char:
                state = fallbacks[state - 1]
            state += stop[state] == char
            if state == len(stop):
                return stop
            self._states[index] = state
        return None


@dataclass(frozen=True, slots=True)
class StopTables:
    """The immutable part of a matcher: the stop strings, the longest first, and their failure tables."""

    stops: list[str]
    fallbacks: list[list[int]]
    firsts: frozenset[str]
    """Their first characters."""


@lru_cache(16)  # the choices of a request are made one after the other and share the tables
def compiled(stops: tuple[str, ...]) -> StopTables:
    """Make the tables, in time linear in the length of the stop strings."""
    longest_first = sorted(set(stops), key=lambda stop: (-len(stop), stop))
    firsts = frozenset(stop[0] for stop in longest_first)
    return StopTables(longest_first, [_fallbacks(stop) for stop in longest_first], firsts)


def _fallbacks(stop: str) -> list[int]:
    """KMP failure table: at i, the length of the longest proper prefix that is a suffix of stop[:i+1]."""
    table = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = table[length - 1]
        length += stop[length] == stop[index]
        table[index] = length
    return table
