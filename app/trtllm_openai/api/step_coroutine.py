"""Coroutines run by hand: as far as they go at once, on from a callback. No task, no turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def when_unblocked(blocker: Any, callback: Callable[[Any], None]) -> None:
    """Call `callback` when that is there what a coroutine yielded: a future, or None for a turn to skip."""
    if blocker is None:
        asyncio.get_running_loop().call_soon(callback, None)
    else:
        blocker._asyncio_future_blocking = False
        blocker.add_done_callback(callback)
