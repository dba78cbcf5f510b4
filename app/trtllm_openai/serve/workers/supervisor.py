"""The supervisor process owns the port, the runners and the HTTP workers, and serves no requests itself.

A worker that ends is replaced: the runners abort its requests, its row of the shared counters is cleared, its
metrics are kept. The first SIGTERM or SIGINT drains every worker, the second interrupts the drain.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.errors import CheckpointError, ConfigError, Unanswered
from trtllm_openai.processes import undecodable
from trtllm_openai.processes.keep_running import Ended, keep_running
from trtllm_openai.runners import PoolStatus
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.state import RunnerState, RunnerUnresponsive
from trtllm_openai.serve.model import ServedModel, open_served_model
from trtllm_openai.serve.pools import OwnedPool
from trtllm_openai.serve.uvicorn import tell_stopping
from trtllm_openai.serve.workers.messages import (
    CANNOT_SERVE,
    Begin,
    Converting,
    Message,
    Opened,
    Question,
    Report,
    WantFailures,
    WantMetrics,
    WantOverview,
    WantRestart,
    WantRunners,
    WantStored,
)
from trtllm_openai.serve.workers.process import WorkerProcess
from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.failures import Failure, FailureHandler, Failures, latest
from trtllm_openai.telemetry.history import History, Overview
from trtllm_openai.telemetry.values import Series, Snapshot, merged, totals

log = logging.getLogger(__name__)

KILL_AFTER_S = 10.0
"""Seconds beyond `drain_timeout` after which workers are killed."""
METRICS_TIMEOUT_S = 1.0
"""Timeout in seconds for a worker's metrics; then those of its latest report are used."""


class Supervisor:
    """Runs for the lifetime of the server.

    `on_progress(share, part, runners)` is called during start-up, `on_ready(model)` at its end.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int,
        listener: socket.socket,
        on_progress: Callable[[float, str, Sequence[RunnerState]], None],
        on_ready: Callable[[ServedModel[OwnedPool]], None],
        hosts: PrestartedHosts | None = None,
    ) -> None:
        """`hosts`: for the first launches of its runners."""
        self._settings = settings
        self._listener = listener
        self._on_progress = on_progress
        self._on_ready = on_ready
        self._hosts = hosts
        self._announced = False
        self._counters = SharedCounters.create(workers)
        self._workers: list[WorkerProcess | None] = [None] * workers
        self._names = itertools.count(1)
        self._created = int(time.time())
        self._model: ServedModel[OwnedPool] | None = None
        self._converting = Converting(0.0, "starting")
        self._gone: Snapshot = {}  # metrics of workers that have ended
        self._history = History()
        self._failures = Failures("supervisor")
        self._over = asyncio.Event()
        self.failure = ""
        """Reason of a failure; empty after a signal."""

    async def run(self) -> None:
        """Serve until a signal or a failure, then shut down in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        keepers = [asyncio.create_task(self._keep(row)) for row in range(len(self._workers))]
        for keeper in keepers:
            keeper.add_done_callback(self._kept)
        opening = asyncio.create_task(self._open())
        sampling = asyncio.create_task(self._history.keep(self._reported))
        failures = FailureHandler(self._failures)
        await self._over.wait()
        self._end_workers()
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_timeout + KILL_AFTER_S)
        for task in (*late, opening, sampling):
            task.cancel()
        await asyncio.gather(*keepers, opening, sampling, return_exceptions=True)
        failures.close()
        self._listener.close()
        if self._model is not None:
            await self._model.pool.stop()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            log.error("an HTTP worker is no longer supervised", exc_info=error)
            self._fail(f"HTTP workers cannot be started: {error}")

    def _on_signal(self) -> None:
        if self._over.is_set():
            self._end_workers()  # the second signal
        else:
            tell_stopping(None, self._settings.drain_timeout)
        self._over.set()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self._over.set()

    def _end_workers(self) -> None:
        for worker in self._present():
            worker.signal(signal.SIGTERM)

    def _present(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker is not None]

    async def _open(self) -> None:
        """Find the model and start the runners."""
        loop = asyncio.get_running_loop()

        def converting(fraction: float, what: str) -> None:
            loop.call_soon_threadsafe(self._tell_converting, fraction, what)

        try:
            self._model = await open_served_model(self._settings, converting, self._tell_runners, self._hosts)
        except Exception as error:
            if not isinstance(error, (CheckpointError, ConfigError)):
                log.exception("start-up failed")
            self._fail(str(error) or type(error).__name__)
            return
        self._tell_all(self._opened())
        self._model.pool.start()

    def _opened(self) -> Opened:
        assert self._model is not None
        return Opened(self._model.name, str(self._model.tokenizer_dir), self._model.sampling_defaults)

    def _tell_converting(self, fraction: float, what: str) -> None:
        self._converting = Converting(fraction, what)
        self._on_progress(fraction, what, ())
        self._tell_all(self._converting)

    def _tell_runners(self) -> None:
        """Report the runners to all workers after a transition."""
        if self._model is None:
            return
        self._tell_all(self._model.pool.report_now())
        status = self._model.pool.status()
        if status.failed and self._model.pool.info is None:  # nothing was ever ready: start-up failed
            self._fail(status.reason)
        elif not self._announced:
            self._progress(status)

    def _progress(self, status: PoolStatus) -> None:
        assert self._model is not None
        if status.ready and all(worker is not None and worker.ready for worker in self._workers):
            self._announced = True
            self._on_ready(self._model)
        else:
            states = self._model.pool.states() if status.reason else ()
            self._on_progress(status.progress, "starting HTTP workers", states)

    def _tell_all(self, message: Message) -> None:
        for worker in self._present():
            worker.channel.tell(message)

    async def _keep(self, row: int) -> None:
        """Keep one worker of a row running, restarting it after failures."""

        def log_failure(ended: Ended, delay: float) -> None:
            log.error("%s; restarting it %s", ended.reason, f"in {delay:g} s" if delay else "now")

        ended = await keep_running(
            lambda: self._run_worker(row), on_failure=log_failure, may_give_up=lambda: not self._serves()
        )
        if ended is not None:
            self._fail(ended.reason)

    async def _run_worker(self, row: int) -> Ended | None:
        """Run a worker to its end. Returns None if the server is ending."""
        if self._over.is_set():
            return None
        begin = self._begin(row)
        worker, refused = None, False
        try:
            worker = self._workers[row] = WorkerProcess(begin, self._hear, self._answer)
            status = await worker.run(self._attached)
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        except OSError as error:
            status, how, refused = 1, f"could not be started: {error}", True
        if worker is not None:
            self._forget(row, worker)
        if self._over.is_set():
            return None
        return Ended(
            f"HTTP worker {begin.worker} {how}",
            healthy=worker is not None and worker.stable,
            final=status == CANNOT_SERVE,
            # A resource that the machine refuses for now (descriptors, processes) ends no server that worked.
            started=(worker is not None and worker.was_ready) or (refused and self._announced),
        )

    def _serves(self) -> bool:
        """Whether other workers serve; then a failed worker is restarted without limit."""
        return self._announced and any(worker.ready for worker in self._present())

    def _begin(self, row: int) -> Begin:
        assert self._counters.fd is not None
        return Begin(
            settings=self._settings.model_dump(mode="json"),
            worker=str(next(self._names)),
            row=row,
            workers=len(self._workers),
            created=self._created,
            listener=self._listener.fileno(),
            counters=self._counters.fd,
        )

    def _attached(self, worker: WorkerProcess) -> None:
        """Send a new worker the current state."""
        if self._over.is_set():
            worker.signal(signal.SIGTERM)
        if self._model is None:
            worker.channel.tell(self._converting)
        else:
            worker.channel.tell(self._opened())
            worker.channel.tell(self._model.pool.report_now())

    def _forget(self, row: int, worker: WorkerProcess) -> None:
        self._workers[row] = None
        self._counters.clear(row)
        self._gone = merged([self._gone, totals(worker.counted, DEFINITIONS)], DEFINITIONS)
        if self._model is not None:
            self._model.pool.forget_observer(worker.name)

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case RunnerUnresponsive(address, reason, seconds) if self._model is not None:
                self._model.pool.report_silence(worker.name, address, reason, seconds)
            case Report() if self._model is not None and not self._announced:
                self._progress(self._model.pool.status())

    async def _answer(self, question: Question) -> Any:
        match question:
            case WantMetrics():
                snapshots = await asyncio.gather(*map(self._counted, self._present()))
                own: Snapshot = {"undecodable_messages": [Series([], undecodable.total())]}
                return merged([self._gone, own, *snapshots], DEFINITIONS)
            case WantOverview():
                every = await asyncio.gather(*map(self._failed, self._present()))
                return Overview(self._history.samples, latest([self._failures.recent(), *every]))
            case WantStored(owner):
                for worker in self._present():
                    if worker.name == owner:
                        return await worker.channel.ask(question, bytes | None)  # type: ignore[arg-type]
                return None
            case WantRunners() if self._model is not None:
                return self._model.pool.report_now()
            case WantRestart(index, drain_timeout_s) if self._model is not None:
                try:
                    await self._model.pool.restart(index, drain_timeout_s)
                except LookupError:
                    return False
                return True
        raise Unanswered

    async def _counted(self, worker: WorkerProcess) -> Snapshot:
        """A worker's current metrics, or those of its latest report if it does not respond."""
        try:
            return await worker.channel.ask(WantMetrics(), Snapshot, METRICS_TIMEOUT_S)
        except Unanswered:
            return worker.counted

    def _reported(self) -> Snapshot:
        """The merged metrics of the workers' latest reports."""
        return merged([self._gone, *(worker.counted for worker in self._present())], DEFINITIONS)

    async def _failed(self, worker: WorkerProcess) -> list[Failure]:
        """A worker's failures; none if it does not respond."""
        try:
            return await worker.channel.ask(WantFailures(), list[Failure], METRICS_TIMEOUT_S)
        except Unanswered:
            return []
