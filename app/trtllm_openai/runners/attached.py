"""A pool of connections to runners that another process launched, such as an HTTP worker's supervisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.remote import RemoteRunner
from trtllm_openai.runners.runner import RUNNER_LOST, SHUTTING_DOWN
from trtllm_openai.runners.state import Endpoint, Phase, RunnerReport, RunnerState, RunnerUnresponsive


class SupervisorClient(Protocol):
    """The part of the supervisor that a pool uses."""

    def tell(self, message: RunnerUnresponsive) -> None:
        """Report a silent runner."""

    async def runners(self) -> RunnerReport:
        """Ask for the state of all runners."""

    async def restart(self, index: int, drain_timeout_s: float) -> bool:
        """Begin to replace a runner. Returns whether it exists."""


class AttachedPool(SequencePool):
    """Connects to runners as they are reported. `on_change` is called after each transition of one."""

    def __init__(
        self,
        worker: str,
        row: int,
        supervisor: SupervisorClient,
        *,
        stall_timeout: float,
        on_change: Callable[[], None],
        affinity: bool = True,
        grows: bool = False,
    ) -> None:
        """`worker`: prefix of request ids. `row`: index of this worker."""
        super().__init__(on_change, f"{worker}.", affinity=affinity, first_runner=row, grows=grows)
        self._supervisor = supervisor
        self._stall_timeout = stall_timeout
        self._restarts = self._wanted = 0
        self._runners: list[RemoteRunner] = []

    @property
    def runners(self) -> Sequence[RemoteRunner]:
        return self._runners

    @property
    def restarts(self) -> int:
        return self._restarts

    @property
    def wanted(self) -> int:
        return self._wanted

    def states(self) -> list[RunnerState]:
        """This process's view of each runner; before the first report, one that is starting."""
        return super().states() or [RunnerState(index=0, state=Phase.STARTING)]

    async def report(self) -> RunnerReport:
        return await self._supervisor.runners()

    async def restart(self, index: int, drain_timeout_s: float) -> None:
        if not await self._supervisor.restart(index, drain_timeout_s):
            raise LookupError(f"There is no runner {index}; there are {len(self._runners)}.")

    def update(self, report: RunnerReport) -> None:
        """The supervisor reported the state of all runners."""
        self._restarts, self._wanted = report.restarts, report.wanted
        before = {runner.index: runner for runner in self._runners}
        reported = {state.index: state for state in report.runners}
        self._runners = [before.get(index) or self._new(state) for index, state in reported.items()]
        for runner in self._runners:
            runner.update(reported[runner.index])
        if gone := [runner for index, runner in before.items() if index not in reported]:
            for runner in gone:
                runner.disconnect(RUNNER_LOST, lost=True)
            self._changed()

    def _new(self, state: RunnerState) -> RemoteRunner:
        return RemoteRunner(
            state, self._adopt, self._changed, self._report_silence, stall_timeout=self._stall_timeout
        )

    def start(self) -> None:
        """Nothing to do: `update` connects."""

    async def stop(self) -> None:
        for runner in self._runners:
            runner.disconnect(SHUTTING_DOWN, lost=False)

    def _report_silence(self, endpoint: Endpoint, reason: str, seconds: float) -> None:
        self._supervisor.tell(RunnerUnresponsive(endpoint.address, reason, seconds))
