"""Number of CPU cores that this process may use: its affinity and its cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Usable cores, at least 1; a fractional quota is rounded up."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """CPU quota in cores, from cgroup v2 or v1; None if unlimited."""
    try:
        words = (cgroups / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return None
    try:
        quota, period = map(float, words)
    except ValueError:  # "max": unlimited
        return None
    return quota / period if quota > 0 and period > 0 else None
