"""Return freed memory to the system: glibc keeps it in its arenas otherwise."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Call `malloc_trim`, if the C library has it. Takes some milliseconds: call it when idle."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
