"""`replicas` ModelRunners behind one door: started together, each request sent to the least loaded one.

A runner that dies is started again after a pause that doubles; one that cannot start as configured, or that
fails `MAX_FAILURES` times in a row without having been ready for `STABLE_AFTER` seconds, is given up.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from app.generation import EngineInfo, EngineStats, GenerationRequest
from app.pool.generation import Generation
from app.pool.runner import Runner
from app.runner.messages import LaunchSpec

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
MAX_FAILURES = 5
STABLE_AFTER = 60.0
STOP_TIMEOUT = 5.0


class PoolError(Exception):
    """No runner can take the request now. `loading`: it will be possible later."""

    def __init__(self, message: str, *, loading: bool) -> None:
        super().__init__(message)
        self.loading = loading


class ShuttingDown(Exception):  # noqa: N818 - an event, not an error
    """The server ends before the request does."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Where the pool stands: `ready` of `total` runners, and why the others are not."""

    ready: int
    total: int
    progress: float
    """Share of the loading that is done, over all runners (0..1)."""
    reason: str
    """What is missing, in words; empty when every runner is ready."""
    failed: bool
    """No runner is ready and none will be."""


@dataclass(frozen=True, slots=True)
class RunnerState:
    """One runner. `state`: starting, loading, ready, stalled, restarting or given_up."""

    index: int
    state: str
    reason: str = ""
    pid: int | None = None
    sequences: int = 0
    """Live on it."""


class RunnerPool:
    """Owns the runner processes. `on_change` is called after any of them changed its state."""

    def __init__(
        self,
        specs: Sequence[LaunchSpec],
        *,
        load_timeout: float,
        stall_timeout: float,
        on_change: Callable[[PoolStatus], None],
    ) -> None:
        """`specs`: one for each replica; the pool gives them their addresses."""
        self._specs = specs
        self._stall_timeout = stall_timeout
        self._load_timeout = load_timeout
        self._on_change = on_change
        self._context = zmq.Context()
        self._directory = Path(tempfile.mkdtemp(prefix="trtllm-openai-"))  # mode 0700
        self._slots: list[Runner | None] = [None] * len(specs)
        self._given_up: dict[int, str] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._counter = 0
        self._homeless: dict[str, tuple[GenerationRequest, Generation]] = {}  # wait for a ready runner
        self.restarts = 0
        self.moved = 0
        """Sequences that began again because their runner was lost."""

    @property
    def runners(self) -> list[Runner]:
        """The runners that have a process now, in order of their index."""
        return [runner for runner in self._slots if runner is not None]

    @property
    def info(self) -> EngineInfo | None:
        """Facts of the engine, the same for every runner; None until one was ready."""
        for runner in self._slots:
            if runner is not None and runner.info is not None:
                return runner.info
        return None

    @property
    def stats(self) -> EngineStats:
        """The runners' statistics, added up."""
        total = EngineStats()
        for runner in self.runners:
            for name in EngineStats.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(runner.stats, name))
        return total

    @property
    def live(self) -> int:
        """Sequences sent to runners, or waiting for one, and not finished."""
        return sum(runner.load for runner in self.runners) + len(self._homeless)

    def start(self) -> None:
        """Begin to start every runner; returns at once, `on_change` tells the rest."""
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(len(self._slots))]

    async def stop(self) -> None:
        """Stop every runner and remove the sockets."""
        for task in (*self._keepers, *self._retiring):
            task.cancel()
        await asyncio.gather(*self._keepers, *self._retiring, return_exceptions=True)
        await asyncio.gather(*(runner.stop(STOP_TIMEOUT) for runner in self.runners))
        self._context.destroy(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def new_request_id(self) -> str:
        """An id that no live sequence of this pool has."""
        self._counter += 1
        return str(self._counter)

    def submit(self, requests: list[GenerationRequest]) -> Generation:
        """Start sequences, all on the same runner. Raises `PoolError` when no runner is ready."""
        ready = self._ready()
        if not ready:
            status = self.status()
            raise PoolError(status.reason, loading=not status.failed)
        runner = ready[0] if len(ready) == 1 else min(ready, key=lambda runner: runner.load)
        generation = Generation((request.request_id for request in requests), self._abort)
        runner.submit(requests, generation)
        return generation

    def restart(self, index: int, patience: float) -> None:
        """Begin to replace a runner: what runs on it gets `patience` seconds, and nothing new comes to it.

        One that was given up is tried again. Raises `LookupError` when there is no such runner.
        """
        if index not in range(len(self._slots)):
            raise LookupError(f"There is no runner {index}; there are {len(self._slots)}.")
        runner = self._slots[index]
        if index in self._given_up:
            del self._given_up[index]
            self._keepers[index] = asyncio.create_task(self._keep(index))
        elif runner is not None and not runner.retiring:
            task = asyncio.create_task(runner.retire(patience))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def runner_states(self) -> list[RunnerState]:
        """Each runner as it is now."""
        return [self._state_of(index) for index in range(len(self._slots))]

    def _state_of(self, index: int) -> RunnerState:
        runner = self._slots[index]
        if index in self._given_up:
            return RunnerState(index, "given_up", self._given_up[index])
        if runner is None or runner.state == "failed":
            return RunnerState(index, "starting")
        state, reason = str(runner.state), ""
        if runner.retiring:
            state = "restarting"
        elif runner.stalled:
            state, reason = "stalled", runner.stalled
        elif runner.state != "ready":
            reason = runner.progress.what
        return RunnerState(index, state, reason, runner.pid, runner.load)

    def _ready(self) -> list[Runner]:
        """The runners that take requests; one that is stalled only if all are: it may yet go on."""
        ready = [
            runner
            for runner in self._slots
            if runner is not None and runner.state == "ready" and not runner.retiring
        ]
        return [runner for runner in ready if not runner.stalled] or ready

    def _abort(self, request_ids: list[str]) -> None:
        """End sequences, wherever they are."""
        for request_id in request_ids:
            self._homeless.pop(request_id, None)
        for runner in self.runners:
            runner.abort(request_ids)

    def _take_over(self, request: GenerationRequest, generation: Generation) -> bool:
        """Begin a lost sequence again, once: one that ends its runners must not end them all."""
        if request.request_id in generation.moved:
            return False
        generation.moved.add(request.request_id)
        self._homeless[request.request_id] = request, generation
        self.moved += 1
        asyncio.get_running_loop().call_soon(self._house)
        return True

    def _house(self) -> None:
        """Send what lost its runner to the ones that are ready; give it up when none will be."""
        status = self.status()
        ready = self._ready()
        if not ready and not status.failed:
            return
        homeless, self._homeless = self._homeless, {}
        for request, generation in homeless.values():
            if ready:
                min(ready, key=lambda runner: runner.load).submit([request], generation)
            else:
                failure = f"no model runner is left: {status.reason}"
                generation.fail(request.request_id, failure)

    def status(self) -> PoolStatus:
        """Where the pool stands now."""
        total = len(self._slots)
        ready, done, reasons = 0, 0.0, []
        for index, runner in enumerate(self._slots):
            if index in self._given_up:
                reasons.append(f"runner {index} was given up: {self._given_up[index]}")
            elif runner is None or runner.state == "failed":
                reasons.append(f"runner {index} is being started")
            elif runner.retiring:
                done += 1
                reasons.append(f"runner {index} is restarted on request")
            elif runner.stalled:
                done += 1
                reasons.append(f"runner {index} is stalled: it {runner.stalled}")
            elif runner.state == "ready":
                ready += 1
                done += 1
            else:
                done += runner.progress.fraction
                reasons.append(f"runner {index} is loading: {runner.progress.what}")
        failed = len(self._given_up) == total
        return PoolStatus(ready, total, done / total, "; ".join(reasons), failed)

    def _changed(self, _: Runner | None = None) -> None:
        if self._homeless:
            self._house()
        self._on_change(self.status())

    async def _keep(self, index: int) -> None:
        """Keep one slot of the pool filled with a running runner."""
        failures = 0
        while True:
            ended = asyncio.Event()
            loaded = asyncio.Event()

            def changed(runner: Runner, ended: asyncio.Event = ended, loaded: asyncio.Event = loaded) -> None:
                if runner.state == "ready":
                    loaded.set()
                elif runner.state == "failed":
                    ended.set()
                self._changed()

            address = f"ipc://{self._directory}/runner-{index}-{self.restarts}.sock"
            spec = msgspec.structs.replace(self._specs[index], address=address, index=index)
            runner = Runner(spec, self._context, self._stall_timeout, changed, self._take_over)
            self._slots[index] = runner
            await runner.start()
            started = time.monotonic()
            reason = await self._wait_for_end(runner, loaded, ended)
            await runner.stop(STOP_TIMEOUT)
            if runner.retiring or (loaded.is_set() and time.monotonic() - started > STABLE_AFTER):
                failures = 0
            failures += 1
            self._slots[index] = None
            if (runner.failure is not None and runner.failure.final) or failures >= MAX_FAILURES:
                log.error("runner %d is given up after %d failures: %s", index, failures, reason)
                self._given_up[index] = reason
                self._changed()
                return
            pause = min(FIRST_BACKOFF * 2 ** (failures - 1), MAX_BACKOFF)
            log.error("runner %d failed (%s); starting it again in %g s", index, reason, pause)
            self._changed()
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _wait_for_end(self, runner: Runner, loaded: asyncio.Event, ended: asyncio.Event) -> str:
        """Wait until the runner failed or did not load in time; returns the reason."""
        end = asyncio.create_task(ended.wait())
        load = asyncio.create_task(loaded.wait())
        try:
            done, _ = await asyncio.wait(
                {end, load}, timeout=self._load_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return f"it did not load within {self._load_timeout:g} s"
            await end
        finally:
            end.cancel()
            load.cancel()
        return runner.failure.message if runner.failure is not None else "unknown"
