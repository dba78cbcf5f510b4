"""Drive a coroutine without a task: `send` runs it to its next await, a callback resumes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def when_unblocked(blocker: Any, callback: Callable[[Any], None]) -> None:
    """Call `callback` once the future that the coroutine waits on completes.

    `blocker`: what `send` returned, a future, or None (a bare yield) to resume in the next loop iteration.
    """
    if blocker is None:
        asyncio.get_running_loop().call_soon(callback, None)
    else:
        blocker._asyncio_future_blocking = False
        blocker.add_done_callback(callback)
