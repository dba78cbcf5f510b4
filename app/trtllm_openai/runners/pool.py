"""`replicas` runners that this process launches, started together and kept running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.launcher import Launcher, SubprocessLauncher
from trtllm_openai.runners.process import RunnerProcess
from trtllm_openai.runners.state import RunnerReport


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
    ) -> None:
        """`specs`: one for each replica. `launcher` None: processes of this machine. Timeouts in seconds;
        `retry_interval`: see `RunnerProcess`, `affinity` `SequencePool`."""
        super().__init__(on_change, affinity=affinity)
        self._launcher = launcher or SubprocessLauncher()
        self._runners = [
            RunnerProcess(
                msgspec.structs.replace(spec, index=index),
                self._launcher,
                self._adopt,
                self._changed,
                load_timeout=load_timeout,
                stall_timeout=stall_timeout,
                retry_interval=retry_interval,
            )
            for index, spec in enumerate(specs)
        ]

    @property
    def runners(self) -> Sequence[RunnerProcess]:
        return self._runners

    @property
    def restarts(self) -> int:
        return sum(max(0, runner.launches - 1) for runner in self._runners)

    def report_now(self) -> RunnerReport:
        """Each runner as it is now."""
        return RunnerReport(self.states(), self.restarts)

    async def report(self) -> RunnerReport:
        return self.report_now()

    def start(self) -> None:
        for runner in self._runners:
            runner.start()

    async def stop(self) -> None:
        await asyncio.gather(*(runner.stop() for runner in self._runners))
        self._launcher.close()

    async def restart(self, index: int, drain_timeout_s: float) -> None:
        if index not in range(len(self._runners)):
            raise LookupError(f"There is no runner {index}; there are {len(self._runners)}.")
        self._runners[index].restart(drain_timeout_s)

    def report_silence(self, observer: str, address: str, reason: str, seconds: float) -> None:
        """Another process waits for a result of the runner at `address`; empty `reason`: not any more."""
        for runner in self._runners:
            if runner.endpoint is not None and runner.endpoint.address == address:
                runner.report_silence(observer, reason, seconds)

    def forget_observer(self, observer: str) -> None:
        """An observer is gone, and what it reported no longer counts."""
        for runner in self._runners:
            runner.forget_observer(observer)
