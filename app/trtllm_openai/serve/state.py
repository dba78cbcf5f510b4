"""What the routes work with: the model's tokenizer and template, the pool, and how far start-up is.

`InferenceService` owns the order of start-up: resolve the checkpoint, read the tokenizer, start the runners.
All of it happens beside the HTTP server, which answers health checks from its first moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trtllm_openai import __version__
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.errors import CheckpointError, ConfigError, PoolError, ShuttingDown
from trtllm_openai.generation import EngineInfo, EngineStats
from trtllm_openai.runners import Admission, PoolStatus, SequencePool
from trtllm_openai.serve.deployment import Deployment, SingleProcess
from trtllm_openai.telemetry.metrics import Metrics, PoolSnapshot, render
from trtllm_openai.telemetry.traces import make_tracer
from trtllm_openai.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CONVERSION_SHARE = 0.5
"""Part of the progress bar that converting a checkpoint gets when there is something to convert."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are taken, and if not, why and how far start-up is (0..1)."""

    ready: bool
    reason: str
    progress: float
    failed: bool = False


class LiveJob(Protocol):
    """A request that is being answered."""

    def interrupt(self, error: Exception) -> None:
        """End it with this error."""

    @property
    def live(self) -> int:
        """Sequences of it that an engine works on."""


class InferenceService:
    """One served model. `on_change` is called whenever `readiness` may have changed."""

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[Readiness], None] = lambda _: None,
        deployment: Deployment | None = None,
    ) -> None:
        """`deployment` None: this process serves alone, with runners of its own."""
        self.settings = settings
        self.deployment = deployment or SingleProcess()
        self.metrics = Metrics()
        self.tracer = make_tracer(settings)
        self.created = self.deployment.created
        self.model_id = settings.served_model_name or settings.model
        self._on_change = on_change
        self._pool: SequencePool | None = None
        self._tokenizer: Tokenizer | None = None
        self._chat: ChatFormat | None = None
        self._starting: asyncio.Task[None] | None = None
        self._phase = Readiness(False, "starting", 0.0)
        self._draining = False
        self.jobs: set[LiveJob] = set()
        """Requests that are being answered."""
        self.admission = Admission(
            settings.limits, lambda code: self.metrics.rejected.labels(code).inc(), self.deployment.board
        )
        self.metrics.watch_pool(self._snapshot)

    @property
    def pool(self) -> SequencePool:
        """The runner pool. Raises `PoolError` before start-up got that far."""
        if self._pool is None or self._tokenizer is None:
            raise self._not_ready()
        return self._pool

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises `PoolError` before it is read."""
        if self._tokenizer is None:
            raise self._not_ready()
        return self._tokenizer

    @property
    def info(self) -> EngineInfo:
        """The engine's facts. Raises `PoolError` before an engine was ready."""
        info = self.pool.info
        if info is None:
            raise self._not_ready()
        return info

    @property
    def engine_info(self) -> EngineInfo | None:
        """The engine's facts, or None before an engine was ready."""
        return self._pool.info if self._pool is not None else None

    @property
    def readiness(self) -> Readiness:
        """Whether requests are taken now."""
        if self._draining:
            return Readiness(False, "draining", 1.0)
        if self._pool is None or self._phase.failed:
            return self._phase
        return _readiness(self._pool.status())

    @property
    def loaded(self) -> bool:
        """Whether a runner has ever been ready."""
        return self.engine_info is not None

    @property
    def chat(self) -> ChatFormat:
        """How the model chats. Raises `PoolError` before its tokenizer is read."""
        if self._chat is None:
            raise self._not_ready()
        return self._chat

    def _not_ready(self) -> PoolError:
        readiness = self.readiness
        return PoolError(readiness.reason, loading=not readiness.failed)

    def start(self) -> None:
        """Begin start-up in the background."""
        self._starting = asyncio.create_task(self._start())

    @property
    def draining(self) -> bool:
        """Whether the server is ending."""
        return self._draining

    def drain(self) -> None:
        """Say not ready from now on; what is running goes on."""
        self._draining = True

    def interrupt(self) -> None:
        """End what is being answered, each request with an error that says so."""
        for job in list(self.jobs):
            job.interrupt(ShuttingDown())

    async def scrape(self) -> bytes:
        """The metrics of the whole server in Prometheus' text format."""
        return render(await self.deployment.merged_metrics(self.metrics.snapshot))

    async def stop(self) -> None:
        """Let go of the runners, which ends them if they are this process's own."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._pool is not None:
            await self._pool.stop()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    async def _start(self) -> None:
        try:
            await self._start_or_raise()
        except Exception as error:
            if not isinstance(error, (CheckpointError, ConfigError)):
                log.exception("start-up failed")
            self._set_phase(Readiness(False, str(error) or type(error).__name__, 0.0, failed=True))

    async def _start_or_raise(self) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()

        def converting(fraction: float, what: str) -> None:
            phase = Readiness(False, what, fraction * CONVERSION_SHARE)
            loop.call_soon_threadsafe(self._set_phase, phase)

        def changed() -> None:
            self._on_change(self.readiness)

        model = await self.deployment.open_model(settings, converting, changed)
        if not settings.served_model_name:
            self.model_id = model.name
        self._chat = ChatFormat(model.tokenizer, settings.tool_parser, settings.reasoning_parser)
        self._tokenizer = model.tokenizer
        self._pool = model.pool
        self._pool.start()

    def _set_phase(self, phase: Readiness) -> None:
        if self._pool is None or phase.failed:
            self._phase = phase
            self._on_change(phase)

    def _snapshot(self) -> PoolSnapshot:
        build = (__version__, self.settings.engine, self.model_id)
        if self._pool is None:
            return PoolSnapshot(EngineStats(), runners=self.settings.replicas, build=build)
        status = self._pool.status()
        return PoolSnapshot(
            self._pool.stats,
            build=build,
            ready=status.ready,
            runners=status.total,
            restarts=self._pool.restarts,
            moved=self._pool.moved,
            orphaned=self._pool.live - sum(job.live for job in self.jobs),
            not_begun=self.admission.waiting,
        )


def _readiness(status: PoolStatus) -> Readiness:
    return Readiness(status.ready > 0, status.reason, status.progress, status.failed)
