"""A runner without a process, for tests of what is built on runners."""

from trtllm_openai.engine_host.messages import Failed, Loading, Ready
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.runner import Runner
from trtllm_openai.runners.state import Endpoint, Phase


class FakeRunner(Runner):
    """A runner with a connection that leads nowhere."""

    def attach(self) -> None:
        events = ConnectionEvents(self._hear, self._closed, self._adopt)
        self.connection = RunnerConnection(Endpoint("unix:/nowhere"), events)

    def _hear(self, connection: RunnerConnection, message: Loading | Ready | Failed) -> None:
        """Nothing is said."""

    def _closed(self, connection: RunnerConnection) -> None:
        """Nothing closes it."""

    def _silent(self, seconds: float) -> None:
        """Nothing watches it."""

    def lose(self) -> None:
        self.transition(Phase.FAILED, "it was lost")
        self.disconnect("the runner was lost", lost=True)

    def begin_again(self) -> None:
        self.attach()
        self.transition(Phase.STARTING)
        self.transition(Phase.READY)
