"""Runners that this process launches and keeps running: a fixed number, or as many as the load needs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.launcher import Launcher, SubprocessLauncher
from trtllm_openai.runners.process import RunnerProcess, Running
from trtllm_openai.runners.runner import Runner
from trtllm_openai.runners.scaling import Load, Scaler
from trtllm_openai.runners.state import COMING, Phase, RunnerReport

log = logging.getLogger(__name__)

SCALE_INTERVAL_S = 1.0


class RunnerPool(SequencePool):
    """Owns the runners. `on_change` is called after each of their transitions."""

    def __init__(
        self,
        specs: Sequence[LaunchSpec],
        *,
        load_timeout: float,
        stall_timeout: float,
        retry_interval: float,
        on_change: Callable[[], None],
        launcher: Launcher | None = None,
        affinity: bool = True,
        scaler: Scaler | None = None,
        running: Mapping[int, Running] | None = None,
    ) -> None:
        """`specs`: one for each runner that there may be. `launcher` None: processes of this machine.

        `scaler` None: all of them, always; else as many as it wants. Timeouts in seconds; `retry_interval`:
        see `RunnerProcess`, `affinity` `SequencePool`. `running`: by index, runners to take over.
        """
        super().__init__(on_change, affinity=affinity, grows=scaler is not None)
        self._launcher = launcher or SubprocessLauncher()
        self._specs = [msgspec.structs.replace(spec, index=index) for index, spec in enumerate(specs)]
        self._timeouts = {
            "load_timeout": load_timeout,
            "stall_timeout": stall_timeout,
            "retry_interval": retry_interval,
        }
        self._scaler = scaler
        self._scaling: asyncio.Task[None] | None = None
        self._restarts = 0  # of runners that are gone
        running = running or {}
        first = [spec for spec in self._specs if spec.index in running]
        others = [spec for spec in self._specs if spec.index not in running]
        first = sorted([*first, *others[: max(0, self.wanted - len(first))]], key=lambda spec: spec.index)
        self._runners = [self._new(spec, running.get(spec.index)) for spec in first]

    @property
    def runners(self) -> Sequence[RunnerProcess]:
        return self._runners

    @property
    def wanted(self) -> int:
        return self._scaler.wanted if self._scaler is not None else len(self._specs)

    @property
    def restarts(self) -> int:
        return self._restarts + sum(max(0, runner.launches - 1) for runner in self._runners)

    def report_now(self) -> RunnerReport:
        """Each runner as it is now."""
        return RunnerReport(self.states(), self.restarts, self.wanted)

    async def report(self) -> RunnerReport:
        return self.report_now()

    def start(self) -> None:
        for runner in self._runners:
            runner.start()
        if self._scaler is not None:
            self._scaling = asyncio.create_task(self._keep_scaling(self._scaler))

    async def stop(self) -> None:
        if self._scaling is not None:
            self._scaling.cancel()
        await asyncio.gather(*(runner.stop() for runner in self._runners))
        self._launcher.close()

    async def release(self) -> None:
        """Keep the runners no longer, and let them run."""
        if self._scaling is not None:
            self._scaling.cancel()
        await asyncio.gather(*(runner.release() for runner in self._runners))

    async def restart(self, index: int, drain_timeout_s: float) -> None:
        for runner in self._runners:
            if runner.index == index:
                runner.restart(drain_timeout_s)
                return
        raise LookupError(f"There is no runner {index}; there are {len(self._runners)}.")

    def report_silence(self, observer: str, address: str, reason: str, seconds: float) -> None:
        """Another process waits for a result of the runner at `address`; empty `reason`: not any more."""
        for runner in self._runners:
            if runner.endpoint is not None and runner.endpoint.address == address:
                runner.report_silence(observer, reason, seconds)

    def forget_observer(self, observer: str) -> None:
        """An observer is gone, and what it reported no longer counts."""
        for runner in self._runners:
            runner.forget_observer(observer)

    def scale(self, wanted: int) -> None:
        """Approach this number of runners: retire some, or take that back, or start some."""
        kept = [runner for runner in self._runners if not runner.retiring]
        for _ in range(wanted - len(kept)):
            if not any(runner.revive() for runner in self._runners):
                self._start_another()
        for runner in sorted(kept, key=_use)[: max(0, len(kept) - wanted)]:
            log.info("runner %d is not needed and drained", runner.index)
            runner.retire(self._forget)

    def _new(self, spec: LaunchSpec, running: Running | None = None) -> RunnerProcess:
        return RunnerProcess(
            spec, self._launcher, self._adopt, self._changed, running=running, **self._timeouts
        )

    def _start_another(self) -> None:
        """Start a runner, unless those that end still have all places."""
        taken = {runner.index for runner in self._runners}
        free = [spec for spec in self._specs if spec.index not in taken]
        if free:
            log.info("runner %d is added", free[0].index)
            runner = self._new(free[0])
            self._runners = sorted([*self._runners, runner], key=lambda one: one.index)
            runner.start()
            self._changed()

    def _forget(self, runner: RunnerProcess) -> None:
        """A runner has ended for good."""
        self._restarts += max(0, runner.launches - 1)
        self._runners = [one for one in self._runners if one is not runner]
        self._changed()

    async def _keep_scaling(self, scaler: Scaler) -> None:
        while True:
            await asyncio.sleep(SCALE_INTERVAL_S)
            before = scaler.wanted
            if scaler.observe(load_of(self._runners), time.monotonic()) != before:
                log.info("%d runners are wanted instead of %d", scaler.wanted, before)
                self._changed()
            self.scale(scaler.wanted)


def load_of(runners: Sequence[Runner]) -> Load:
    """The load of these runners, by their latest statistics. Those that are retiring do not count."""
    ready = [(one, one.connection) for one in runners if one.phase is Phase.READY and not one.retiring]
    stats = [connection.stats for _, connection in ready if connection is not None]
    total = sum(one.kv_blocks_total for one in stats)
    return Load(
        ready=len(ready),
        coming=sum(one.phase in COMING for one in runners),
        running=sum(one.running for one in stats),
        waiting=sum(max(0, one.waiting - one.deferred) for one in stats),
        oldest_s=max((end.oldest_waiting_s for _, end in ready if end is not None), default=0.0),
        kv_use=sum(one.kv_blocks_used for one in stats) / total if total else 0.0,
        batch=min((one.info.max_batch_size for one, _ in ready if one.info is not None), default=1),
    )


def _use(runner: RunnerProcess) -> tuple[bool, int, int]:
    """The lowest is needed least: one that does not serve, one with few sequences, the latest."""
    return runner.phase is Phase.READY, runner.sequences, -runner.index
