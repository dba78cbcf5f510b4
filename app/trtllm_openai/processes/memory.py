"""Gives freed memory back to the system: glibc keeps it, scattered over its arenas, for what may come."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Some milliseconds, for a process at rest. Does nothing where the C library has no `malloc_trim`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
