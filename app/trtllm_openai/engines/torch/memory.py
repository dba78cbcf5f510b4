"""Memory available for the KV cache, and detection of out-of-memory errors."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CPU_SHARE = 0.25
"""Fraction of free host memory for the KV cache; its pages are allocated only on first write."""


NO_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a primitive", "could not create a mem")
"""Out-of-memory messages of PyTorch's CPU allocator, the C++ library and oneDNN (plain RuntimeErrors)."""


def out_of_memory(error: Exception) -> bool:
    """Whether `error` reports that memory ran out, on a CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def free_bytes(device: torch.device, gpu_fraction: float) -> int:
    """Bytes currently available for the KV cache on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * gpu_fraction)
    return int(min(_available_on_host(), _left_in_cgroup()) * CPU_SHARE)


def _available_on_host() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_in_cgroup() -> int | float:
    """The container's memory limit minus its usage; infinite without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return float("inf")
        return max(0, int(limit) - int((root / "memory.current").read_text()))
    except (OSError, ValueError):
        return float("inf")
