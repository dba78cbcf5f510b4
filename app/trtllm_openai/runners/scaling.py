"""How many runners there should be: a rule over their statistics, without a clock or a runner of its own.

Up at once: when a sequence has waited for longer than the target, by as many as the backlog would keep busy,
up to twice those that are ready; and by one when the KV cache is full. Runners that are being started count,
so that nothing is added twice. Down slowly: by one when one less would have done without a break for
`down_after_s` seconds, with `HEADROOM`, and as many seconds after the last change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADROOM = 0.7
"""Share of the batches and of the KV cache's target that may be in use where one runner less would do."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of all runners at one moment."""

    ready: int
    """Runners that take sequences."""
    coming: int = 0
    """Runners that are being started."""
    running: int = 0
    waiting: int = 0
    """Sequences, those that wait for room."""
    oldest_s: float = 0.0
    """Seconds that the one which waits longest has waited, at least."""
    kv_use: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    batch: int = 1
    """Sequences that a runner runs at once."""


class Scaler:
    """Keeps `wanted` between `least` and `most`. Times are seconds of any clock that does not go back."""

    def __init__(self, least: int, most: int, *, queue_s: float, kv_use: float, down_after_s: float) -> None:
        """`queue_s`, `kv_use`: targets, above which runners are added."""
        self.wanted = least
        self._least = least
        self._most = most
        self._queue_s = queue_s
        self._kv_use = kv_use
        self._down_after_s = down_after_s
        self._calm_since: float | None = None

    def resume(self, wanted: int) -> None:
        """Begin with the number that was wanted before, e.g. by another process."""
        self.wanted = min(self._most, max(self._least, wanted))

    def observe(self, load: Load, now: float) -> int:
        """The number that is wanted under this load; to be called at regular times."""
        needed = min(self._most, self._needed(load))
        if needed > self.wanted:
            self.wanted, self._calm_since = needed, None
        elif not self._one_less_would_do(load):
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= self._down_after_s:
            self.wanted, self._calm_since = self.wanted - 1, now
        return self.wanted

    def _needed(self, load: Load) -> int:
        """At least so many; 0: nothing says so."""
        if not load.ready:
            return 0
        needed = 0
        if load.waiting and load.oldest_s > self._queue_s:
            each = max(1.0, load.running / load.ready)
            busy = math.ceil((load.running + load.waiting) / each)
            needed = max(load.ready + 1, min(busy, 2 * load.ready))
        if load.kv_use > self._kv_use:
            needed = max(needed, load.ready + 1)
        return needed

    def _one_less_would_do(self, load: Load) -> bool:
        left = self.wanted - 1
        if left < self._least or not load.ready or load.coming or load.waiting:
            return False
        runners = min(left, load.ready)
        return (
            load.running <= HEADROOM * load.batch * runners
            and load.kv_use * load.ready <= HEADROOM * self._kv_use * runners
        )
