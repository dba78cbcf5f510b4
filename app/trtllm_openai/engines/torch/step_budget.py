"""A time budget for steps: how many prompt tokens fit beside the decodes of a step (`torch.max_step_ms`).

`StepTimes` learns from measured steps how long one takes: a sum of five parts, each proportional to what
`Work` counts. `StepBudget` times the engine's steps for it, and asks it for the tokens that fit. Nothing else
depends on what it says: chunks end at the same tiles as without a budget, only after other numbers of them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from trtllm_openai.engines.torch.plan import Limits, Plan

LEAST_CHUNK = 64
"""Prompt tokens that fit any step, so that prompts always advance: on a GPU they cost less than the weights,
which the step reads anyway. A tile, where that is larger."""

PROMPTS_SHARE = 0.5
"""Time for prompts in any step, as a share of what its decodes take."""

RATE = 0.25
"""Share of a prediction's error that one step corrects, once some steps were seen."""
LARGEST_RISE = math.log(2)
LARGEST_FALL = math.log(8)
"""Largest errors that count, as logarithms of ratios. A step that takes much longer than predicted is often
an accident (a kernel is compiled, the host is busy), so that one raises the prediction by 19 % at most."""
BOUND = 1e6
"""Largest factor between a part and its first guess."""

START = (0.1, 0.1 / 256, 0.1 / 2**18, 1.0 / LEAST_CHUNK, 1.0 / LEAST_CHUNK / 2**14)
"""First guess of each part, as a fraction of the budget: the least chunk fills it, until steps show
otherwise. A prompt token costs twice as much after 16 thousand tokens."""


class Work(NamedTuple):
    """The quantities from which the duration of a step follows.

    `rows`: rows of decodes and drafts. `context`: tokens in their KV cache. `tokens`: prompt tokens.
    `pairs`: prompt tokens times the tokens before them in their prompts, which they attend to.
    """

    rows: int
    context: int
    tokens: int
    pairs: int


class StepTimes:
    """Predicts durations of steps: a + b·rows + c·context + d·tokens + e·pairs, all positive.

    Normalized least mean squares on the logarithms of durations and parts: each measured step corrects a
    share of its error, and each part in proportion to what it has of the prediction. So a change (of the
    clock rate, of what else runs there) is followed in some ten steps, and the unit of time does not matter.
    Durations are not linear in rows and tokens over their whole range; what counts is the range that steps
    are in.
    """

    def __init__(self, guess_s: float) -> None:
        """`guess_s`: duration in seconds that the least chunk is assumed to take at first."""
        self._parts = [guess_s * share for share in START]
        self._most = [part * BOUND for part in self._parts]
        self._least = [part / BOUND for part in self._parts]
        self._seen = 0

    def decodes_s(self, rows: int, context: int) -> float:
        """Seconds that a step takes without prompts."""
        floor, row, token, _, _ = self._parts
        return floor + row * rows + token * context

    def prompt_token_s(self, depth: int) -> float:
        """Seconds that a prompt token adds after `depth` others."""
        return self._parts[3] + self._parts[4] * depth

    def note(self, work: Work, seconds: float) -> None:
        """Learn from a step that took so long."""
        parts = self._parts
        shares = [
            parts[0],
            parts[1] * work.rows,
            parts[2] * work.context,
            parts[3] * work.tokens,
            parts[4] * work.pairs,
        ]
        predicted = sum(shares)
        error = math.log(max(seconds, 1e-9) / predicted)
        self._seen += 1
        if self._seen > 1:
            error = min(max(error, -LARGEST_FALL), LARGEST_RISE)
        rate = max(RATE, 1 / self._seen)
        step = rate * error * predicted / sum(share * share for share in shares)
        for index, share in enumerate(shares):
            if share:
                changed = parts[index] * math.exp(step * share)
                parts[index] = min(max(changed, self._least[index]), self._most[index])


class StepBudget:
    """Times the steps of an engine, and says how many prompt tokens fit a step.

    Steps are read in the order of their launches. Where they overlap, a step begins on the device when the
    one before it ends, which is when the tokens of that one are read: so a step takes from its launch, or
    from the read before its own if that is later, to its own read. That is also the gap that clients see.
    """

    def __init__(self, limit_s: float, limits: Limits) -> None:
        self._limit_s = limit_s
        self._least = max(limits.tile, min(LEAST_CHUNK, limits.chunk))
        self.times = StepTimes(limit_s)
        self._unread: deque[tuple[Work | None, float]] = deque()  # with the time of the launch
        self._read_at = -math.inf

    def tokens(self, rows: int = 0, context: int = 0, depth: int = 0) -> int:
        """How many prompt tokens may be in a step with `rows` and `context` of decodes (see `Work`).

        `depth`: computed tokens of the prompt. Prompts may always take `PROMPTS_SHARE` of what the decodes
        take, or they would hardly advance where those alone take longer than the limit.
        """
        decodes_s = self.times.decodes_s(rows, context)
        spare_s = max(self._limit_s - decodes_s, PROMPTS_SHARE * decodes_s if rows else 0.0)
        return max(self._least, int(spare_s / self.times.prompt_token_s(depth)))

    def launched(self, plan: Plan, at: float) -> None:
        """Note that a step was launched. `at`: when its launch began, in seconds of a monotonic clock."""
        # Steps went first in its midst: how long it took itself is not known.
        interrupted = at < self._read_at
        self._unread.append((None if interrupted else work_of(plan), at))

    def read(self, at: float) -> None:
        """Note that the tokens of the step that was launched first were read."""
        work, launched_at = self._unread.popleft()
        if work is not None:
            self.times.note(work, at - max(launched_at, self._read_at))
        self._read_at = at


def work_of(plan: Plan) -> Work:
    """Count what is in the step."""
    tokens = pairs = 0
    for chunk in plan.prefill:
        tokens += chunk.length
        pairs += chunk.length * (chunk.start + chunk.length // 2)
    return Work(plan.decode_rows, plan.context if plan.decode else 0, tokens, pairs)
