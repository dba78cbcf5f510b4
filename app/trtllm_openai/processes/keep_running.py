"""Keep one process running: start it again when it ends, give it up after repeated failures.

One that worked is started again at once, one that fails again and again with exponential backoff.
One policy for runners and HTTP workers. The ranks of an engine are not restarted one by one: docs/runners.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_FAILURES = 5
"""Failed starts in a row after which a process is given up."""
STABLE_AFTER_S = 60.0
"""Seconds in service after which a process counts as healthy."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before the next start: `first_s` seconds, doubled with each failure up to `longest_s`."""

    first_s: float = 0.5
    longest_s: float = 10.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, at least 1."""
        return float(min(self.first_s * 2.0 ** min(failures - 1, 32), self.longest_s))


BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run of a process ended."""

    reason: str
    healthy: bool = False
    """It had worked: failures before this run no longer count."""
    final: bool = False
    """Starting it again would fail in the same way."""
    started: bool = False
    """It had started as it should: what ended it then does not count towards giving it up."""


async def keep_running(
    start: Callable[[], Awaitable[Ended | None]],
    backoff: Backoff = BACKOFF,
    max_failures: int = MAX_FAILURES,
    *,
    on_failure: Callable[[Ended, float], None] = lambda *_: None,
    may_give_up: Callable[[], bool] = lambda: True,
) -> Ended | None:
    """Call `start`, which returns when the process has ended, again and again.

    Returns None as soon as `start` does: the process was asked to end. Returns the last `Ended` when the
    process is given up: its failure is final or the `max_failures`-th failed start in a row, and
    `may_give_up()` agrees. Before every other start, `on_failure(ended, delay)` is called and `delay` seconds
    pass: none after the first failure of a process that had started, else those of `backoff`.
    """
    failures = failed_starts = 0
    while True:
        ended = await start()
        if ended is None:
            return None
        failures = 1 if ended.healthy else failures + 1
        failed_starts = 0 if ended.started else 1 if ended.healthy else failed_starts + 1
        if (ended.final or failed_starts >= max_failures) and may_give_up():
            return ended
        delay = 0.0 if failures == 1 and (ended.started or ended.healthy) else backoff.delay(failures)
        on_failure(ended, delay)
        await asyncio.sleep(delay)
