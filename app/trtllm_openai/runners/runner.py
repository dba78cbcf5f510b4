"""One runner as the dispatcher sees it: a phase, and a connection while there is one.

`RunnerProcess` is a runner that this process launches, `runners.remote.RemoteRunner` one that belongs
to another process. Both judge, by the events of their `RunnerConnection`, which phase the runner is in.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from trtllm_openai.engine_host.messages import Failed, Loading, Ready
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.state import TRANSITIONS, Endpoint, Phase, RunnerState

Adopt = Callable[[GenerationRequest, Generation], bool]

UNRESPONSIVE_SHARE = 0.25
"""Share of the stall timeout after which a silent runner is unresponsive; at its end it is replaced."""
RUNNER_LOST = "the model runner failed while generating"
"""Error of a sequence of which the client has a part when its runner is lost."""
SHUTTING_DOWN = "the server is shutting down"


class Runner(ABC):
    """Base of all runners. `on_change` is called after every transition."""

    def __init__(
        self, index: int, adopt: Adopt, on_change: Callable[[], None], *, stall_timeout: float
    ) -> None:
        """`adopt`: see `ConnectionEvents`. `stall_timeout`: seconds without a result while requests run."""
        self.index = index
        self.reason = ""
        """Why the runner is in this phase."""
        self.connection: RunnerConnection | None = None
        self.info: EngineInfo | None = None
        """Facts of the engine; None until it has loaded once."""
        self.retiring = False
        """Whether it is not needed any more and ends once its sequences are done."""
        self.loaded = 0.0
        """Share of the loading that is done (0..1)."""
        self._phase = Phase.STARTING
        self._adopt = adopt
        self._on_change = on_change
        self._stall_timeout = stall_timeout
        self._watcher: asyncio.Task[None] | None = None

    @property
    def phase(self) -> Phase:
        """The phase of the runner; only `transition` changes it."""
        return self._phase

    @property
    def serves(self) -> bool:
        """Whether it takes sequences, if need be."""
        return self._phase in (Phase.READY, Phase.UNRESPONSIVE) and self.connection is not None

    @property
    def stats(self) -> EngineStats:
        """Its latest statistics."""
        return self.connection.stats if self.connection is not None else EngineStats()

    @property
    def load(self) -> int:
        """Live sequences that this process sent."""
        return self.connection.load if self.connection is not None else 0

    @property
    def sequences(self) -> int:
        """Live sequences of all processes; those of others as of the latest statistics."""
        if self.connection is None:
            return 0
        stats = self.connection.stats
        return max(self.connection.load, stats.running + stats.waiting)

    def transition(self, phase: Phase, reason: str = "") -> None:
        """Enter `phase`. Raises `RuntimeError` if the present phase does not allow that: a bug."""
        if phase is not self._phase and phase not in TRANSITIONS[self._phase]:
            raise RuntimeError(f"runner {self.index}: {self._phase} cannot become {phase}")
        self._phase, self.reason = phase, reason
        self._on_change()

    def state(self) -> RunnerState:
        """The runner at this moment."""
        loading = self._phase in (Phase.STARTING, Phase.LOADING)
        gone = self._phase in (Phase.FAILED, Phase.GIVEN_UP)
        return RunnerState(
            index=self.index,
            state=self._phase,
            reason=self.reason,
            loaded=0.0 if gone else self.loaded if loading else 1.0,
            pid=self.pid,
            sequences=self.sequences,
            node=self.endpoint.node if self.endpoint is not None else None,
            gpus=self.gpus,
            endpoint=self.endpoint,
            retiring=self.retiring,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the runner, if known."""
        return None

    @property
    def gpus(self) -> str | None:
        """The GPUs that it was given, if known."""
        return None

    @property
    def endpoint(self) -> Endpoint | None:
        """How other processes reach it; None while nobody should."""
        return self.connection.endpoint if self.connection is not None else None

    def connect(self, endpoint: Endpoint) -> RunnerConnection:
        """Open a connection, whose events come to this object."""
        events = ConnectionEvents(self._hear, self._closed, self._adopt)
        self.connection = RunnerConnection(endpoint, events)
        self.connection.open()
        self._watcher = asyncio.create_task(self._watch_progress(self.connection))
        return self.connection

    def disconnect(self, message: str, *, lost: bool) -> None:
        """Close the connection: its sequences end with this error, or are adopted if `lost`."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close(message, lost=lost)

    @abstractmethod
    def _hear(self, connection: RunnerConnection, message: Loading | Ready | Failed) -> None:
        """The runner said where it stands."""

    @abstractmethod
    def _closed(self, connection: RunnerConnection) -> None:
        """The runner closed the connection, or it broke."""

    @abstractmethod
    def _silent(self, seconds: float) -> None:
        """Requests run, and there was no result for so many seconds; 0: there is one again."""

    def _silence(self, seconds: float) -> str:
        """The reason of an unresponsive runner."""
        return f"it gave no result for {seconds:.0f} s while {self.load} requests ran"

    async def _watch_progress(self, connection: RunnerConnection) -> None:
        """Notice an engine that stands still, e.g. since a rank died: its process lives and says nothing."""
        was_silent = False
        while True:
            await asyncio.sleep(min(1.0, self._stall_timeout / 8))
            seconds = time.monotonic() - connection.progressed_at if connection.load else 0.0
            silent = seconds > UNRESPONSIVE_SHARE * self._stall_timeout
            if silent or was_silent:
                self._silent(seconds if silent else 0.0)
            was_silent = silent
