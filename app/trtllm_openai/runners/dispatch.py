"""Dispatch: which runner gets a sequence, and where it goes when that runner is lost."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from trtllm_openai.errors import PoolError
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.routing import Router
from trtllm_openai.runners.runner import Runner
from trtllm_openai.runners.state import Phase, PoolStatus, RunnerReport, RunnerState


class SequencePool(ABC):
    """Sends each request to one of the runners, which `Router` chooses if there are several.

    `on_change` is called after each transition of one.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        prefix: str = "",
        *,
        affinity: bool = True,
        first_runner: int = 0,
        grows: bool = False,
    ) -> None:
        """`prefix` keeps the ids of requests apart from those of other pools with the same runners; with one,
        there may be such pools. `affinity`: whether the choice is by cached prefixes, too. `first_runner`:
        the one to begin with, another for each of such pools. `grows`: there may be more runners later, so
        that the work of the first one counts from the beginning."""
        self._on_change = on_change
        self._affinity = affinity
        self._first_runner = first_runner
        self._grows = grows
        self._router: Router | None = None
        self._routed: dict[int, Runner] = {}
        self._prefix = prefix
        self._counter = 0
        self._orphans: dict[str, tuple[GenerationRequest, Generation]] = {}  # wait for a ready runner
        self.info: EngineInfo | None = None
        """Facts of the engine, the same for every runner; None until one was ready."""
        self.routed = False
        """Whether there is a choice of runners, so that the session of a request counts."""
        self.moved = 0
        """Sequences that began again because their runner was lost."""

    @property
    @abstractmethod
    def runners(self) -> Sequence[Runner]:
        """All runners, in order of their index."""

    @property
    def wanted(self) -> int:
        """How many runners there should be, without those that are retiring."""
        return len(self.runners)

    @property
    @abstractmethod
    def restarts(self) -> int:
        """How often a runner was started again."""

    @abstractmethod
    async def report(self) -> RunnerReport:
        """Each runner as it is now, with what only the process that launched it knows."""

    @abstractmethod
    async def restart(self, index: int, drain_timeout_s: float) -> None:
        """Begin to replace a runner: it gets no new sequences, and those it has get so many seconds.

        One that was given up is started again. Raises `LookupError` when there is no such runner.
        """

    @abstractmethod
    def start(self) -> None:
        """Begin to start the runners, or to connect to them; returns at once."""

    @abstractmethod
    async def stop(self) -> None:
        """End everything."""

    def states(self) -> list[RunnerState]:
        """Each runner as this process sees it now."""
        return [runner.state() for runner in self.runners]

    def status(self) -> PoolStatus:
        """Readiness of the pool now."""
        return PoolStatus.of(self.states())

    @property
    def stats(self) -> EngineStats:
        """The runners' statistics, added up."""
        total = EngineStats()
        for runner in self.runners:
            if runner.connection is not None:
                total.add(runner.connection.stats)
        return total

    @property
    def live(self) -> int:
        """Unfinished sequences of this pool, on runners or waiting for one."""
        return sum(runner.load for runner in self.runners) + len(self._orphans)

    def new_request_id(self) -> str:
        """An id that no live sequence on these runners has."""
        self._counter += 1
        return f"{self._prefix}{self._counter}"

    def submit(self, requests: list[GenerationRequest], session: str = "") -> Generation:
        """Start sequences, all on the same runner. Raises `PoolError` when no runner is ready.

        `session`: what the client calls the conversation, which is best continued on the same runner.
        """
        generation = Generation((request.request_id for request in requests), self._abort)
        if not self._send(requests, generation, session):
            status = self.status()
            raise PoolError(status.reason, loading=not status.failed)
        return generation

    def _send(self, requests: list[GenerationRequest], generation: Generation, session: str = "") -> bool:
        """Send sequences to a runner. Returns whether there is one: an unresponsive one only if none is
        ready, as it may recover."""
        router = self._router
        if router is not None and router.ready:
            route = router.choose(requests[0], session)
            connection = self._routed[route.index].connection
            assert connection is not None  # that of a runner in this phase
            connection.submit(requests, generation, router.sent(route, requests))
            return True
        for phase in (Phase.READY, Phase.UNRESPONSIVE):
            found = [runner for runner in self.runners if runner.phase is phase and runner.connection]
            if found:
                connection = min(found, key=lambda runner: runner.load).connection
                assert connection is not None
                connection.submit(requests, generation)
                return True
        return False

    def _route(self) -> None:
        """Tell the router of runners that are ready, and of those that are gone with what they held."""
        runners = self.runners
        if self._router is None:
            if len(runners) < 2 and not self._grows:
                return
            self._router = Router(
                shared=bool(self._prefix), affinity=self._affinity, first_runner=self._first_runner
            )
            self.routed = self._affinity
        router, present = self._router, {runner.index: runner for runner in runners if runner.serves}
        for index in self._routed.keys() - present.keys():
            router.forget_runner(index)
        for index in present.keys() - self._routed.keys():
            info, connection = present[index].info, present[index].connection
            assert connection is not None
            router.add_runner(index, info.kv_blocks * info.kv_block_size if info is not None else 0)
            connection.watch = router.watch(index)
        self._routed = present
        router.set_ready([index for index, runner in present.items() if runner.phase is Phase.READY])

    def _abort(self, request_ids: list[str]) -> None:
        """End sequences, wherever they are."""
        for request_id in request_ids:
            self._orphans.pop(request_id, None)
        for runner in self.runners:
            if runner.connection is not None:
                runner.connection.abort(request_ids)

    def _adopt(self, request: GenerationRequest, generation: Generation) -> bool:
        """Begin a lost sequence again, once: one that crashes its runner must not crash them all."""
        if request.request_id in generation.moved:
            return False
        generation.moved.add(request.request_id)
        self._orphans[request.request_id] = request, generation
        self.moved += 1
        asyncio.get_running_loop().call_soon(self._place_orphans)
        return True

    def _changed(self) -> None:
        """A runner is in another phase."""
        self.info = next((runner.info for runner in self.runners if runner.info is not None), self.info)
        self._route()
        self._place_orphans()
        self._on_change()

    def _place_orphans(self) -> None:
        """Send sequences that lost their runner to another; fail them when every runner was given up."""
        if not self._orphans:
            return
        status = self.status()
        if not status.failed and not any(runner.serves for runner in self.runners):
            return
        orphans, self._orphans = self._orphans, {}
        for request, generation in orphans.values():
            if not self._send([request], generation):
                generation.fail(request.request_id, f"no model runner is left: {status.reason}")
