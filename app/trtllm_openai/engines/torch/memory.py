"""How large the KV cache may be."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CPU_SHARE = 0.25
"""Of the memory that is free; the pages are taken only as sequences grow into them."""


NO_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a primitive", "could not create a mem")
"""What PyTorch's allocator, the C++ library and oneDNN say on a CPU, having no exception of their own."""


def out_of_memory(error: Exception) -> bool:
    """Whether there was no memory for what was computed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def free_bytes(device: torch.device, gpu_fraction: float) -> int:
    """Bytes that the KV cache may take on `device` now."""
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
    """A container's limit less what it uses; infinite without one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return float("inf")
        return max(0, int(limit) - int((root / "memory.current").read_text()))
    except (OSError, ValueError):
        return float("inf")
