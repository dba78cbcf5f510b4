"""Which runners hold which prefixes, as far as one process knows: bounded, least recently used out first.

A runner's prefixes are kept in two generations. What is used goes to the young one; when that covers as much
as the runner's KV cache, the old one is forgotten and the young one becomes old. So what is remembered of a
runner is between what it surely holds and twice that. To remember too much costs less than to remember too
little: a conversation that is sent where it was is as well off there as elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtllm_openai.runners.routing.names import DEPTHS

MAX_NAMES = 400_000
"""Names that a table keeps for all of its runners together, about 100 MB."""
DEFAULT_CAPACITY = 1 << 17
"""Tokens in the cache of a runner that does not say."""


class PrefixTable:
    """Names (`names.prefix_names`) to runners, which are bits of a mask, by their index."""

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}
        """Name to mask of runners that hold it."""
        self._runners: dict[int, _Held] = {}

    def add_runner(self, index: int, capacity: int) -> None:
        """A runner holds nothing yet and has room for so many tokens; 0: it does not say."""
        self.forget(index)
        self._runners[index] = _Held(capacity or DEFAULT_CAPACITY)

    def forget(self, index: int) -> None:
        """A runner holds nothing any more."""
        held = self._runners.pop(index, None)
        if held is not None:
            self._drop(index, held.young | held.old)

    def add(self, index: int, names: Sequence[int], first: int = 0) -> None:
        """A runner was sent a prompt with these names, the first of level `first`; -1: it covers nothing."""
        held = self._runners.get(index)
        if held is None:
            return
        bit, holders, young, old = 1 << index, self.holders, held.young, held.old
        before = DEPTHS[first - 1] if first > 0 else 0
        for level, name in enumerate(names, first):
            depth = DEPTHS[level] if level >= 0 else 0
            if name not in young:
                young.add(name)
                held.tokens += depth - before
                if name not in old:
                    holders[name] = holders.get(name, 0) | bit
            before = depth
        most = MAX_NAMES // (2 * len(self._runners))
        if held.tokens > held.capacity or len(young) > most:
            self._drop(index, old - young)
            held.old, held.young, held.tokens = young, set(), 0

    def _drop(self, index: int, names: set[int]) -> None:
        holders, others = self.holders, ~(1 << index)
        for name in names:
            left = holders[name] & others
            if left:
                holders[name] = left
            else:
                del holders[name]


class _Held:
    """What one runner holds. `tokens`: those that the young names cover."""

    __slots__ = ("capacity", "old", "tokens", "young")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.young: set[int] = set()
        self.old: set[int] = set()
        self.tokens = 0
