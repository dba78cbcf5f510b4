"""Return freed memory to the system: glibc keeps it in its arenas otherwise, one of them for each thread."""

from __future__ import annotations

import asyncio
import ctypes
import resource

INTERVAL_S = 10.0
"""Seconds between two looks at a process's memory."""
SLACK = 32 * 2**20
"""Bytes by which a process may grow before its freed memory is released."""


def release_free_memory() -> None:
    """Call `malloc_trim`, if the C library has it. Takes some milliseconds: call it when idle."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def keep_releasing() -> None:
    """Release freed memory, in a thread, when this process has grown by `SLACK` since it last did; for ever.

    Meanwhile other threads may have to wait for an arena, for the milliseconds that it takes to trim it.
    """
    least = resident()
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = resident()
        if now > least + SLACK:
            await asyncio.to_thread(release_free_memory)
            least = resident()
        least = min(least, now)
