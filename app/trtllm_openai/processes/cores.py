"""How many processor cores this process may use: its affinity, and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """At least 1. A quota of one and a half cores counts as two."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores' worth of time per period, by control groups version 2 or 1; None without a bound."""
    try:
        words = (cgroups / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return None
    try:
        quota, period = map(float, words)
    except ValueError:  # "max" is no bound
        return None
    return quota / period if quota > 0 and period > 0 else None
