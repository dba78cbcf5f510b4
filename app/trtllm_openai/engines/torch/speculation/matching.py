"""Finds where a text occurred before, and what followed there: the drafts of n-gram and suffix decoding.

`longest_match` looks for the latest occurrences of the end of one text in another, and `Match.follow`
predicts from them: Saxena, "Prompt Lookup Decoding" (https://github.com/apoorvumang/prompt-lookup-decoding)
follows the last one; Oliaro et al., "SuffixDecoding" (https://arxiv.org/abs/2411.04975) the most frequent
continuation of all that match equally far. There is no index to build or keep: a search compares the whole
text, four bytes a token, which takes about as long as reading it from memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]

SHORTEST = 2
"""Fewer tokens than this are no match."""
LONGEST = 24
"""A match is compared up to this many tokens."""
CANDIDATES = 64
"""Occurrences that are considered, the latest ones."""
SEPARATOR = -1
"""Stands between texts that do not follow each other."""


class TokenBuffer:
    """A growing text of tokens, 4 bytes each. `most`: how many are kept; older ones are dropped."""

    __slots__ = ("_end", "_most", "_values")

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._end = 0
        self._values = np.empty(64, np.int32)

    def __len__(self) -> int:
        return self._end

    @property
    def tokens(self) -> Tokens:
        """A view, valid until the next `extend`."""
        return self._values[: self._end]

    def extend(self, tokens: list[int]) -> None:
        """Append tokens."""
        if self._most is not None:
            tokens = tokens[-self._most :]
            beyond = self._end + len(tokens) - self._most
            if beyond > 0:
                # A quarter more than needed, so that not every call moves the rest.
                beyond = min(self._end, beyond + self._most // 4)
                self._values[: self._end - beyond] = self._values[beyond : self._end].copy()
                self._end -= beyond
        end = self._end + len(tokens)
        if end > len(self._values):
            grown = np.empty(2 * end if self._most is None else min(2 * end, self._most), np.int32)
            grown[: self._end] = self._values[: self._end]
            self._values = grown
        self._values[self._end : end] = tokens
        self._end = end


@dataclass(frozen=True, slots=True)
class Match:
    """Where the end of a text occurs in `tokens`.

    `length`: how many tokens agree, at most `LONGEST`. `follows`: positions in `tokens` of what comes after
    the occurrences that agree so far, latest first. `own`: the text is `tokens` itself, so that what follows
    its end is the draft: a text that repeats itself goes on repeating.
    """

    tokens: Tokens
    length: int
    follows: list[int]
    own: bool

    def latest(self, most: int) -> list[int]:
        """At most `most` tokens that followed the latest occurrence."""
        return self._going_on(self.follows[0], [], most)

    def likeliest(self, most: int) -> tuple[list[int], list[float]]:
        """At most `most` tokens, each the most frequent one after the tokens before it; the latest of equals.

        Second: the share of the occurrences that go on like this, from 1 downwards.
        """
        alive, draft, shares = self.follows, list[int](), list[float]()
        while len(draft) < most and len(alive) > 1:
            following = [(at, self._token(at, draft)) for at in alive]
            counts = Counter(token for _, token in following if token != SEPARATOR)
            if not counts:
                return draft, shares
            token = counts.most_common(1)[0][0]  # of equals the first one counted: the latest occurrence
            alive = [at for at, other in following if other == token]
            draft.append(token)
            shares.append(len(alive) / len(self.follows))
        if len(draft) < most:
            draft = self._going_on(alive[0], draft, most)
        return draft, shares + [1 / len(self.follows)] * (len(draft) - len(shares))

    def _token(self, start: int, draft: list[int]) -> int:
        """What follows `draft` in the occurrence before `start`."""
        at, end = start + len(draft), len(self.tokens)
        if at < end:
            return int(self.tokens[at])
        return draft[at - end] if self.own else SEPARATOR

    def _going_on(self, start: int, draft: list[int], most: int) -> list[int]:
        at, end = start + len(draft), start + most
        draft = draft + self.tokens[at:end].tolist()
        if SEPARATOR in draft:
            return draft[: draft.index(SEPARATOR)]
        while self.own and len(draft) < most:
            draft.append(self._token(start, draft))
        return draft


def longest_match(text: Tokens, ending: Tokens, longest: int = LONGEST, *, own: bool = False) -> Match | None:
    """The latest `CANDIDATES` occurrences in `text` of the last tokens of `ending`, those that agree longest.

    None if none agrees in `SHORTEST` tokens and has a token after it. `own`: `ending` is the end of `text`.
    """
    size = min(longest, len(ending))
    if size < SHORTEST or len(text) <= SHORTEST:
        return None
    # An occurrence ends before the last token of the text, so that a token follows it.
    found = np.flatnonzero(text[1:-1] == ending[-1]) + 1
    found = found[text[found - 1] == ending[-2]][-CANDIDATES:][::-1]
    if not len(found):
        return None
    before = np.arange(size)
    windows = text[np.maximum(found[:, None] - before, 0)]
    agree = (windows == ending[::-1][:size]) & (found[:, None] >= before)
    lengths = np.logical_and.accumulate(agree, 1).sum(1)
    length = int(lengths.max())
    return Match(text, length, (found[lengths == length] + 1).tolist(), own)
