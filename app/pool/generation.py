"""The stream of deltas that belongs to one HTTP request: one or more sequences, one consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from app.generation import StepOutput


class Generation:
    """Collects the deltas of its sequences until the consumer takes them, all at once.

    The consumer is woken once per engine step, however many tokens came; one that is behind finds the
    deltas of several steps waiting and can merge them. Must be closed: what is still live is then aborted.
    """

    __slots__ = ("_abort", "_items", "_waiter", "_woken", "live", "moved")

    def __init__(self, request_ids: Iterable[str], abort: Callable[[list[str]], None]) -> None:
        self.live = set(request_ids)
        self._abort = abort
        self._items: list[StepOutput] = []
        self.moved: set[str] = set()
        """Sequences that were begun again on another runner, which is done once."""
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, output: StepOutput) -> None:
        """Add a delta (called by the pool)."""
        if output.finish_reason is not None:
            self.live.discard(output.request_id)
        self._items.append(output)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def wake(self) -> None:
        """Have `next` return at once, with what there is."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[StepOutput]:
        """The deltas since the last call, oldest first; waits for one. Empty when all sequences ended."""
        if not self._items and not self._woken:
            if not self.live:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        return items

    def abort(self, request_id: str) -> None:
        """End one sequence; its later deltas are dropped."""
        if request_id in self.live:
            self.live.discard(request_id)
            self._abort([request_id])

    def close(self) -> None:
        """End every sequence that is still live. Idempotent, never waits."""
        if self.live:
            ids = list(self.live)
            self.live.clear()
            self._abort(ids)
