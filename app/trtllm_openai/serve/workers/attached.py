"""The pool of an HTTP worker: links to runners that the supervisor owns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from trtllm_openai.runners import SequencePool
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.state import RunnerReport, RunnerState
from trtllm_openai.serve.workers.messages import RunnerUnresponsive


class Owner(Protocol):
    """Who owns the runners, as a worker sees it."""

    def tell(self, message: RunnerUnresponsive) -> None:
        """Say that a runner is silent."""

    async def runners(self) -> RunnerReport:
        """Everything about them."""

    async def restart(self, index: int, patience: float) -> bool:
        """Begin to replace one; whether it exists."""


class AttachedPool(SequencePool):
    """Attaches to runners as it hears of them. `on_change` is called when something about them changed."""

    def __init__(
        self, worker: str, row: int, owner: Owner, *, stall_timeout: float, on_change: Callable[[], None]
    ) -> None:
        """`worker` begins the ids of its requests; `row` is its number among the workers."""
        super().__init__(f"{worker}.")
        self._row = row
        self._owner = owner
        self._stall_timeout = stall_timeout
        self._on_change = on_change
        self._links: dict[int, RunnerConnection] = {}
        self._states: list[RunnerState] = [RunnerState(index=0, state="starting")]
        self._events = ConnectionEvents(lambda _: self._changed(), self._quiet, self._adopt)

    @property
    def links(self) -> list[RunnerConnection]:
        return list(self._links.values())

    def states(self) -> list[RunnerState]:
        """As the owner told, but that only what this process has attached to is ready."""
        return [self._seen_here(state) for state in self._states]

    async def report(self) -> RunnerReport:
        return await self._owner.runners()

    async def restart(self, index: int, patience: float) -> None:
        if not await self._owner.restart(index, patience):
            raise LookupError(f"There is no runner {index}; there are {len(self._states)}.")

    def update(self, report: RunnerReport) -> None:
        """The owner told where the runners are now."""
        self._states, self.restarts = report.runners, report.restarts
        for state in report.runners:
            link = self._links.get(state.index)
            if link is not None and link.address != state.address:
                self._links.pop(state.index).close("the model runner failed while generating", lost=True)
                link = None
            if link is None and state.address:
                link = self._links[state.index] = RunnerConnection(
                    state.index, state.address, self._events, stall_timeout=self._stall_timeout
                )
                self._links = dict(sorted(self._links.items()))
                link.open()
            if link is not None:
                link.retiring = state.state == "restarting"
                link.reported = state.reason if state.state == "stalled" else ""
        self._changed()

    def start(self) -> None:
        """Nothing to do: `update` begins."""

    async def stop(self) -> None:
        """Detach from every runner."""
        for link in self._links.values():
            link.close("the server is shutting down", lost=False)
        self._links.clear()

    def _choose(self, ready: list[RunnerConnection]) -> RunnerConnection:
        """The least loaded by all workers; of several the one whose turn it is for this worker."""
        turns = len(self._states)
        return min(ready, key=lambda link: (link.load + link.elsewhere, (link.index - self._row) % turns))

    def _seen_here(self, state: RunnerState) -> RunnerState:
        link = self._links.get(state.index)
        if state.state != "ready" or (link is not None and link.state == "ready"):
            return state
        return msgspec.structs.replace(state, state="loading", reason="a worker attaches to it")

    def _quiet(self, link: RunnerConnection, seconds: float) -> None:
        self._owner.tell(RunnerUnresponsive(link.address, link.seen, seconds))

    def _changed(self) -> None:
        self._heard()
        self._on_change()
