"""Stop strings over a stream of text: what may be shown now, and where a stop string ends it.

Knuth, Morris and Pratt's automaton for each stop string, so that the result depends on neither how the text
is cut into pieces nor on how its stop strings repeat themselves.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the stop string that is complete first; of several at the same place the longest."""

    __slots__ = ("_fallbacks", "_firsts", "_held", "_include", "_states", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`stops`: non-empty strings. `include`: the one that matched belongs to the text."""
        self._include = include
        self._stops = sorted(stops, key=len, reverse=True)
        self._fallbacks = [_fallbacks(stop) for stop in self._stops]
        self._states = [0] * len(self._stops)  # characters of each stop string that the text ends in
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that is certain not to belong to a stop string. After a match: the last of it."""
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
        shown = len(seen) - max(self._states)
        self._held = seen[shown:]
        return seen[:shown]

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
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


def _fallbacks(stop: str) -> list[int]:
    """For each length - 1, the longest proper prefix of `stop` that is also a suffix of that much of it."""
    table = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = table[length - 1]
        length += stop[length] == stop[index]
        table[index] = length
    return table
