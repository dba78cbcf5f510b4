"""Start-up and shutdown of the served model in one HTTP process.

`InferenceService` builds the `ServerContext` that the routes work with, and owns the order of start-up:
resolve the checkpoint, read the tokenizer, start the runners. All of it happens beside the HTTP server, which
answers health checks from its first moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from trtllm_openai import __version__
from trtllm_openai.api.context import Readiness, ServerContext
from trtllm_openai.api.receiving import Bodies, ReceiveBudget
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.errors import CheckpointError, ConfigError, ShuttingDown
from trtllm_openai.generation import EngineStats
from trtllm_openai.processes import undecodable
from trtllm_openai.processes.memory import keep_releasing
from trtllm_openai.runners import Admission
from trtllm_openai.serve.deployment import Deployment, SingleProcess
from trtllm_openai.telemetry.failures import FailureHandler, Failures
from trtllm_openai.telemetry.metrics import Metrics, PoolSnapshot, RunnerSnapshot
from trtllm_openai.telemetry.traces import make_tracer

log = logging.getLogger(__name__)

CONVERSION_SHARE = 0.5
"""Share of the progress bar for the conversion of a checkpoint, when it has to be converted."""

__all__ = ["InferenceService", "Readiness"]


class InferenceService:
    """Starts and stops one served model. `on_change` is called when `context.readiness` may have changed."""

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[ServerContext], None] = lambda _: None,
        deployment: Deployment | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`deployment` None: this is the only HTTP process, with runners of its own. Raises `ConfigError`.

        `metrics`: those of this process, if others read them too.
        """
        self.settings = settings
        self.deployment = deployment or SingleProcess()
        self._on_change = on_change
        self._tasks: list[asyncio.Task[None]] = []
        metrics = metrics or Metrics()
        failures = Failures(f"http-{self.deployment.worker}" if self.deployment.worker else "http")
        self.deployment.serve_failures(failures.recent)
        # One body of the largest size fits, whatever the share of this process.
        share = max(settings.max_receiving_bytes // self.deployment.workers, settings.max_body_bytes)
        self.context = ServerContext(
            settings=settings,
            metrics=metrics,
            admission=Admission(
                settings.limits, lambda code: metrics.rejected.labels(code).inc(), self.deployment.counters
            ),
            bodies=Bodies(settings.max_body_bytes, ReceiveBudget(share)),
            created=self.deployment.created,
            model_id=settings.model_name or settings.model,
            merged_metrics=self.deployment.merged_metrics,
            overview=self.deployment.overview,
            failures=failures,
            others_behind=lambda: self.deployment.counters.others_behind,
            tracer=make_tracer(settings),
        )
        metrics.watch_pool(self._snapshot)
        self._failure_handler: FailureHandler | None = None

    def start(self) -> None:
        """Begin start-up in the background."""
        self._failure_handler = FailureHandler(self.context.failures)
        self._tasks = [asyncio.create_task(self._start()), asyncio.create_task(keep_releasing())]
        if self.deployment.history is not None:
            self._tasks.append(
                asyncio.create_task(self.deployment.history.keep(self.context.metrics.snapshot))
            )

    def drain(self) -> None:
        """Report not ready from now on, and reject new requests; running ones go on."""
        self.context.draining = True

    def interrupt(self) -> None:
        """End all running requests with a shutdown error."""
        for run in list(self.context.runs):
            run.interrupt(ShuttingDown())

    async def stop(self) -> None:
        """Disconnect from the runners, which ends them if this process owns them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.context.pool is not None:
            await self.context.pool.stop()
        if self.context.tracer is not None:
            await asyncio.to_thread(self.context.tracer.close)
        if self._failure_handler is not None:
            self._failure_handler.close()

    async def _start(self) -> None:
        try:
            await self._start_or_raise()
        except Exception as error:
            if not isinstance(error, (CheckpointError, ConfigError)):
                log.exception("start-up failed")
            self._set_startup(Readiness(False, str(error) or type(error).__name__, 0.0, failed=True))

    async def _start_or_raise(self) -> None:
        settings, context = self.settings, self.context
        loop = asyncio.get_running_loop()

        def converting(fraction: float, part: str) -> None:
            startup = Readiness(False, part, fraction * CONVERSION_SHARE)
            loop.call_soon_threadsafe(self._set_startup, startup)

        def changed() -> None:
            self._on_change(context)

        model = await self.deployment.open_model(settings, converting, changed)
        if not settings.model_name:
            context.model_id = model.name
        context.chat = ChatFormat(
            model.tokenizer,
            settings.tool_parser,
            settings.reasoning_parser,
            render_timeout_s=settings.limits.render_timeout,
            max_prompt_length=settings.limits.max_prompt_length,
        )
        context.sampling_defaults = model.sampling_defaults
        context.tokenizer = model.tokenizer
        context.pool = model.pool
        context.pool.start()

    def _set_startup(self, startup: Readiness) -> None:
        if self.context.pool is None or startup.failed:
            self.context.startup = startup
            self._on_change(self.context)

    def _snapshot(self) -> PoolSnapshot:
        context = self.context
        build = (__version__, self.settings.engine, context.model_id)
        if context.pool is None:
            least = self.settings.replica_range.min
            return PoolSnapshot(EngineStats(), runners=least, wanted=least, build=build)
        status = context.pool.status()
        return PoolSnapshot(
            context.pool.stats,
            build=build,
            ready=status.ready,
            runners=status.total,
            wanted=context.pool.wanted,
            each=[RunnerSnapshot(one.index, one.phase, one.stats) for one in context.pool.runners],
            restarts=context.pool.restarts,
            moved=context.pool.moved,
            undecodable=undecodable.total(),
            orphaned=context.pool.live - sum(run.live for run in context.runs),
            not_begun=context.admission.waiting,
            info=context.engine_info,
            adapters=self._adapter_sequences(),
        )

    def _adapter_sequences(self) -> dict[str, tuple[int, int]]:
        """Sequences of each LoRA adapter of this process: those that were begun, and those that wait."""
        found = dict.fromkeys(self.settings.adapters, (0, 0))
        for run in self.context.runs if found else ():
            if run.adapter is not None:
                running, waiting = found[run.adapter]
                found[run.adapter] = running + run.begun, waiting + run.live - run.begun
        return found
