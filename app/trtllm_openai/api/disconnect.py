"""Detection of client disconnects, and cancellation of work when they happen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from trtllm_openai.api.step_coroutine import when_unblocked
from trtllm_openai.errors import ClientDisconnected

T = TypeVar("T")


class DisconnectWatcher:
    """Calls `left` once when the client disconnects. Must be closed."""

    __slots__ = ("_left", "_waiting", "gone")

    def __init__(self, receive: Receive, left: Callable[[], object]) -> None:
        self.gone = False
        self._left = left
        self._waiting: Coroutine[Any, Any, None] | None = _disconnect(receive)
        self._go_on()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _go_on(self, _: object = None) -> None:
        if self._waiting is None:
            return
        try:
            blocker = self._waiting.send(None)
        except Exception:  # StopIteration: http.disconnect was received; else the connection failed
            self._waiting = None
            self.gone = True
            self._left()
            return
        when_unblocked(blocker, self._go_on)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await `work`; if the client disconnects first, cancel it and raise `ClientDisconnected`."""
    task = asyncio.ensure_future(work)
    watcher = DisconnectWatcher(request.receive, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.gone:
            raise ClientDisconnected from None
        raise
    finally:
        watcher.close()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
