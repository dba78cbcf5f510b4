"""A runner that the supervisor launched, seen from an HTTP worker."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_openai.engine_host.messages import Failed, Loading, Ready
from trtllm_openai.runners.connection import RunnerConnection
from trtllm_openai.runners.runner import RUNNER_LOST, Adopt, Runner
from trtllm_openai.runners.state import COMING, Endpoint, Phase, RunnerState

ReportSilence = Callable[[Endpoint, str, float], None]
"""Called with `(endpoint, reason, seconds)` while a runner is silent; an empty reason: it has recovered."""


class RemoteRunner(Runner):
    """Has the phase that the supervisor reports, but is ready only while this process is connected to it.

    `report_silence` notifies the supervisor, which replaces a runner that is silent for too long.
    """

    def __init__(
        self,
        state: RunnerState,
        adopt: Adopt,
        on_change: Callable[[], None],
        report_silence: ReportSilence,
        *,
        stall_timeout: float,
    ) -> None:
        """`state`: the first reported one; `update` must be called with it, too."""
        super().__init__(state.index, adopt, on_change, stall_timeout=stall_timeout)
        self._reported = state
        self._report_silence = report_silence
        self._serving = False  # connected, and the runner has sent Ready
        self._silent_here = ""

    def update(self, state: RunnerState) -> None:
        """The supervisor reported `state`."""
        self._reported = state
        self.loaded, self.retiring = state.loaded, state.retiring
        if self.connection is not None and self.connection.endpoint != state.endpoint:
            self._lose()
        if self.connection is None and state.endpoint is not None:
            self.connect(state.endpoint)
        self._follow()

    def _lose(self) -> None:
        """The connection was lost."""
        self._serving, self._silent_here = False, ""
        if self.phase not in (Phase.FAILED, Phase.GIVEN_UP):
            self.transition(Phase.FAILED, "an HTTP process lost its connection")
        self.disconnect(RUNNER_LOST, lost=True)

    def _follow(self) -> None:
        """Enter the phase that follows from the report, the connection and the silence."""
        phase, reason = self._reported.state, self._reported.reason
        if phase in COMING and self._serving:  # who launched it, or took it over, has yet to hear of it
            phase, reason = Phase.READY, ""
        if phase in (Phase.READY, Phase.UNRESPONSIVE):
            if not self._serving:
                phase = Phase.LOADING if self.phase is Phase.LOADING else Phase.STARTING
                reason = "an HTTP process is connecting to it"
            elif self._silent_here:
                phase, reason = Phase.UNRESPONSIVE, self._silent_here
        elif phase is Phase.STARTING and self.phase is Phase.LOADING:
            phase, reason = self.phase, self.reason
        elif phase is Phase.DRAINING and not self._serving and self.phase is Phase.FAILED:
            return  # it was drained and ends, as this process has seen first
        if phase is not self.phase or reason != self.reason or phase is Phase.LOADING:
            self.transition(phase, reason)

    def _hear(self, connection: RunnerConnection, message: Loading | Ready | Failed) -> None:
        if isinstance(message, Ready):
            self.info = message.info
            self._serving = True
            self._follow()
        elif isinstance(message, Failed):  # the supervisor is notified, too, and acts
            self._lose()

    def _closed(self, connection: RunnerConnection) -> None:
        """Reconnect; if the runner has exited, the supervisor's next report will say so."""
        self._lose()
        if self._reported.endpoint is not None:
            self.connect(self._reported.endpoint)
        self._follow()

    def _silent(self, seconds: float) -> None:
        if self.connection is None:
            return
        self._silent_here = self._silence(seconds) if seconds else ""
        self._report_silence(self.connection.endpoint, self._silent_here, seconds)
        self._follow()
