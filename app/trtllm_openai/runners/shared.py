"""The pool of one of several front machines: connections to runners that belong to all of them."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_openai.runners.attached import AttachedPool
from trtllm_openai.runners.membership import Membership
from trtllm_openai.runners.state import Phase, RunnerReport, RunnerState


class SharedPool(AttachedPool):
    """See `Membership`. `on_change` is called after each transition of a runner."""

    def __init__(
        self,
        membership: Membership,
        most: int,
        *,
        stall_timeout: float,
        on_change: Callable[[], None],
        affinity: bool,
    ) -> None:
        """`most`: how many runners there may be."""
        first = int(membership.front, 16) % most
        super().__init__(
            membership.front,
            first,
            membership,
            stall_timeout=stall_timeout,
            on_change=on_change,
            affinity=affinity,
            grows=most > 1,
        )
        self._membership = membership

    def start(self) -> None:
        self._membership.open(self._told)

    async def stop(self) -> None:
        await super().stop()
        await self._membership.leave()

    def states(self) -> list[RunnerState]:
        if self._membership.refused:
            reason = f"the pool cannot be joined: {self._membership.refused}"
            return [RunnerState(index=0, state=Phase.GIVEN_UP, reason=reason)]
        return super().states()

    def report_now(self) -> RunnerReport:
        """Each runner, as its leader has it."""
        return self._membership.report

    def report_silence(self, observer: str, address: str, reason: str, seconds: float) -> None:
        """See `RunnerPool.report_silence`."""
        self._membership.report_silence(f"{self._membership.front}.{observer}", address, reason, seconds)

    def forget_observer(self, observer: str) -> None:
        """See `RunnerPool.forget_observer`."""
        self._membership.forget_observer(f"{self._membership.front}.{observer}")

    def _told(self, report: RunnerReport) -> None:
        if report.runners and not self._membership.refused:
            self.update(report)
        self._on_change()
