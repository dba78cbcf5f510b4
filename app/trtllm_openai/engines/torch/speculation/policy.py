"""Decides how many draft tokens a step verifies: as many as make the most tokens of its time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Items

HALF_LIFE = 0.9
"""Weight of the tokens tried so far after one more: about the last ten count."""
PRIOR, PRIOR_WEIGHT = 0.6, 2.0
"""Share of accepted tokens that is assumed before any was tried, as so many tokens."""


class Acceptance:
    """Which share of a sequence's draft tokens came true, the latest ones before all."""

    __slots__ = ("_hits", "_tries")

    def __init__(self) -> None:
        self._hits = self._tries = 0.0

    @property
    def rate(self) -> float:
        """Probability that the next token of a draft is right if those before it are."""
        return (self._hits + PRIOR * PRIOR_WEIGHT) / (self._tries + PRIOR_WEIGHT)

    def note(self, accepted: int, drafted: int) -> None:
        """A draft of `drafted` tokens had `accepted` right ones before the first wrong one."""
        tries = accepted + (accepted < drafted)
        fade = HALF_LIFE**tries
        self._hits = self._hits * fade + accepted
        self._tries = self._tries * fade + tries


class StepCost:
    """Duration of a decode step by its number of rows, in steps of one row; linear between the `points`."""

    def __init__(self, *points: tuple[int, float]) -> None:
        self._rows = [rows for rows, _ in points]
        self._times = [time for _, time in points]

    def __call__(self, rows: int) -> float:
        at = min(max(bisect_right(self._rows, rows), 1), len(self._rows) - 1)
        first, last = self._rows[at - 1], self._rows[at]
        slope = (self._times[at] - self._times[at - 1]) / (last - first)
        return self._times[at - 1] + slope * (rows - first)

    def least_chance(self, rows: int) -> float:
        """How likely a draft token must be, so that it pays to add its row to a step of `rows` sequences."""
        return rows * (self(rows + 1) / self(rows) - 1)


CPU_STEP_COST = StepCost((1, 1.0), (2, 1.03), (4, 1.15), (8, 1.45), (16, 2.1), (32, 3.6), (64, 6.5))
GPU_STEP_COST = StepCost((1, 1.0), (2, 1.18), (16, 1.25), (64, 1.7), (128, 2.3), (256, 3.5))
"""Durations of decode steps (docs/performance.md), by which `torch.speculation: auto` decides."""
GPU_READ_COST = 0.1
"""Cost, on a GPU, of reading a step before the next one is launched, in steps of one row."""


def worthwhile(
    chances: Items[Items[float]], rows: int, most: int, cost: StepCost, delay: float = 0.0
) -> list[int]:
    """How many draft tokens of each sequence to verify, for the most tokens in the time of the step.

    `chances`: for each sequence, the probability that its draft is right up to each token; they only fall.
    `rows`: sequences in the step, with or without a draft. `most`: rows that can be added. `delay`: what any
    draft adds to the step's duration.
    """
    ranked = sorted(
        ((-chance, index, which) for which, one in enumerate(chances) for index, chance in enumerate(one))
    )[:most]
    kept = [0] * len(chances)
    gain, best, taken = float(rows), rows / cost(rows), 0
    for number, (chance, _, _) in enumerate(ranked, 1):
        gain -= chance
        pace = gain / (cost(rows + number) + delay)
        if pace > best:
            best, taken = pace, number
    for _, _, which in ranked[:taken]:
        kept[which] += 1
    return kept
