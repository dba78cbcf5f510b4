"""Finds out by the clock whether drafts pay.

`policy` decides by what steps are assumed to cost, which differs by model, context and machine.
"""

from __future__ import annotations

FADE = 0.9
"""Weight of the steps so far after one more: about the last ten count."""
ENOUGH = 8
"""Steps with drafts before they are judged."""
SHORTEST_PAUSE, LONGEST_PAUSE = 32, 512
"""Steps without drafts after drafts did not pay, at first and at most."""


class _Pace:
    """Tokens a second of some steps, the latest ones before all."""

    __slots__ = ("_seconds", "_tokens", "steps")

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self.steps = 0

    def note(self, tokens: int, seconds: float) -> None:
        self._tokens = self._tokens * FADE + tokens
        self._seconds = self._seconds * FADE + seconds
        self.steps += 1

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0


class _Batch:
    """Steps with drafts and without, of one number of sequences."""

    __slots__ = ("drafted", "left", "pause", "plain")

    def __init__(self) -> None:
        self.plain, self.drafted = _Pace(), _Pace()
        self.pause = SHORTEST_PAUSE
        self.left = 0
        """Steps until drafts are tried again."""

    def note(self, tokens: int, seconds: float, *, drafted: bool) -> None:
        if not drafted:
            self.plain.note(tokens, seconds)
            self.left = max(0, self.left - 1)
            return
        self.drafted.note(tokens, seconds)
        if self.drafted.steps < ENOUGH or not self.plain.steps:
            return
        if self.drafted.tokens_per_s < self.plain.tokens_per_s:
            self.left = self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self.drafted = _Pace()
        elif self.drafted.steps >= 4 * ENOUGH:
            self.pause = SHORTEST_PAUSE


class Trial:
    """Compares steps with drafts with those without, which occur wherever no draft is found.

    For each number of sequences by itself. Contexts grow, so that old steps without drafts look fast: drafts
    then pause, and are compared with new ones.
    """

    def __init__(self) -> None:
        self._batches: dict[int, _Batch] = {}

    def allows(self, sequences: int) -> bool:
        """Whether drafts may be verified in a step of so many sequences."""
        batch = self._batches.get(sequences)
        return batch is None or not batch.left

    def note(self, sequences: int, tokens: int, seconds: float, *, drafted: bool) -> None:
        """A step without prompts took `seconds` and made `tokens` for `sequences`."""
        batch = self._batches.setdefault(sequences, _Batch())
        batch.note(tokens, seconds, drafted=drafted)
