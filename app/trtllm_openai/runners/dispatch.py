"""The way of sequences to runners and, when those are lost, to others; whoever owns the runners."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from trtllm_openai.errors import PoolError
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest
from trtllm_openai.runners.connection import RunnerConnection
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.state import PoolStatus, RunnerReport, RunnerState


class SequencePool(ABC):
    """Sends each request to the least loaded of some runners."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix` keeps the ids of requests apart from those of other pools with the same runners."""
        self._prefix = prefix
        self._counter = 0
        self._orphans: dict[str, tuple[GenerationRequest, Generation]] = {}  # wait for a ready runner
        self.info: EngineInfo | None = None
        """Facts of the engine, the same for every runner; None until one was ready."""
        self.restarts = 0
        """How often a runner was started again."""
        self.moved = 0
        """Sequences that began again because their runner was lost."""

    @property
    @abstractmethod
    def links(self) -> Sequence[RunnerConnection]:
        """The runners that can be reached now, in order of their index."""

    @abstractmethod
    def states(self) -> list[RunnerState]:
        """Each runner as it is now."""

    @abstractmethod
    async def report(self) -> RunnerReport:
        """Each runner as it is now, with what only the owner of its process knows."""

    @abstractmethod
    async def restart(self, index: int, patience: float) -> None:
        """Begin to replace a runner: what runs on it gets `patience` seconds, and nothing new comes to it.

        One that was given up is tried again. Raises `LookupError` when there is no such runner.
        """

    @abstractmethod
    def start(self) -> None:
        """Begin to reach the runners; returns at once."""

    @abstractmethod
    async def stop(self) -> None:
        """End everything."""

    def status(self) -> PoolStatus:
        """Where the pool stands now."""
        return PoolStatus.of(self.states())

    @property
    def stats(self) -> EngineStats:
        """The runners' statistics, added up."""
        total = EngineStats()
        for link in self.links:
            for name in EngineStats.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(link.stats, name))
        return total

    @property
    def live(self) -> int:
        """Sequences of this pool that are on runners, or wait for one, and are not finished."""
        return sum(link.load for link in self.links) + len(self._orphans)

    def new_request_id(self) -> str:
        """An id that no live sequence on these runners has."""
        self._counter += 1
        return f"{self._prefix}{self._counter}"

    def submit(self, requests: list[GenerationRequest]) -> Generation:
        """Start sequences, all on the same runner. Raises `PoolError` when no runner is ready."""
        ready = self._ready()
        if not ready:
            status = self.status()
            raise PoolError(status.reason, loading=not status.failed)
        generation = Generation((request.request_id for request in requests), self._abort)
        self._choose(ready).submit(requests, generation)
        return generation

    def _choose(self, ready: list[RunnerConnection]) -> RunnerConnection:
        """The least loaded."""
        return ready[0] if len(ready) == 1 else min(ready, key=lambda link: link.load)

    def _ready(self) -> list[RunnerConnection]:
        """The runners that take requests; one that is stalled only if all are: it may yet go on."""
        ready = [link for link in self.links if link.takes_requests]
        return [link for link in ready if not link.stalled] or ready

    def _abort(self, request_ids: list[str]) -> None:
        """End sequences, wherever they are."""
        for request_id in request_ids:
            self._orphans.pop(request_id, None)
        for link in self.links:
            link.abort(request_ids)

    def _adopt(self, request: GenerationRequest, generation: Generation) -> bool:
        """Begin a lost sequence again, once: one that ends its runners must not end them all."""
        if request.request_id in generation.moved:
            return False
        generation.moved.add(request.request_id)
        self._orphans[request.request_id] = request, generation
        self.moved += 1
        asyncio.get_running_loop().call_soon(self._place_orphans)
        return True

    def _heard(self) -> None:
        """A runner changed its state: something may be known now, or go on."""
        self.info = next((link.info for link in self.links if link.info is not None), self.info)
        self._place_orphans()

    def _place_orphans(self) -> None:
        """Send what lost its runner to the ones that are ready; give it up when none will be."""
        if not self._orphans:
            return
        status = self.status()
        ready = self._ready()
        if not ready and not status.failed:
            return
        homeless, self._orphans = self._orphans, {}
        for request, generation in homeless.values():
            if ready:
                self._choose(ready).submit([request], generation)
            else:
                failure = f"no model runner is left: {status.reason}"
                generation.fail(request.request_id, failure)
