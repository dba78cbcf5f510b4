"""The process that owns the port, the runners and the HTTP workers, and serves nothing itself.

A worker that ends is replaced: its requests are aborted on the runners, what it had in shared memory is
cleared, what it counted is kept. The first SIGTERM or SIGINT has every worker drain, a second hurries them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from trtllm_openai.config import Settings
from trtllm_openai.errors import CheckpointError, ConfigError, Unanswered
from trtllm_openai.runners import PoolStatus, RunnerPool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.serve.model import ServedModel, open_served_model
from trtllm_openai.serve.workers.messages import (
    Begin,
    Converting,
    Message,
    Opened,
    Question,
    Report,
    RunnerUnresponsive,
    WantMetrics,
    WantRestart,
    WantRunners,
    WantStored,
)
from trtllm_openai.serve.workers.process import WorkerProcess
from trtllm_openai.telemetry.metrics import DEFINITIONS
from trtllm_openai.telemetry.values import Snapshot, merged, totals

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 10.0
MAX_FAILURES = 5
"""Ends of a worker in a row, without having been ready, that end the server if no other worker serves."""
CANNOT_SERVE = 2
"""Exit status of a worker that would fail in the same way again as things are; it has said why."""
GRACE = 10.0
"""Seconds beyond `drain_timeout` after which workers are killed."""
METRICS_PATIENCE = 1.0


class Supervisor:
    """Runs to the end of the server. `on_progress(share, what)` is called until `on_ready(model_id)` is."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        listener: socket.socket,
        on_progress: Callable[[float, str], None],
        on_ready: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._on_progress = on_progress
        self._on_ready = on_ready
        self._announced = False
        self._board = SharedCounters.create(workers)
        self._workers: list[WorkerProcess | None] = [None] * workers
        self._names = itertools.count(1)
        self._created = int(time.time())
        self._model: ServedModel[RunnerPool] | None = None
        self._converting = Converting(0.0, "starting")
        self._gone: Snapshot = {}  # what workers counted that are no more
        self._over = asyncio.Event()
        self.failure = ""
        """Why the server cannot go on; empty if it ended because it was told to."""

    async def run(self) -> None:
        """Serve until a signal or a failure, then end everything in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        keepers = [asyncio.create_task(self._keep(row)) for row in range(len(self._workers))]
        for keeper in keepers:
            keeper.add_done_callback(self._kept)
        opening = asyncio.create_task(self._open())
        await self._over.wait()
        self._end_workers()
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_timeout + GRACE)
        for task in (*late, opening):
            task.cancel()
        await asyncio.gather(*keepers, opening, return_exceptions=True)
        self._listener.close()
        if self._model is not None:
            await self._model.pool.stop()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            log.error("an HTTP worker is not looked after any more", exc_info=error)
            self._fail(f"HTTP workers cannot be started: {error}")

    def _told_to_end(self) -> None:
        if self._over.is_set():
            self._end_workers()  # once more: in a hurry
        self._over.set()

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
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
            self._model = await open_served_model(self._settings, converting, self._tell_runners)
        except Exception as error:
            if not isinstance(error, (CheckpointError, ConfigError)):
                log.exception("start-up failed")
            self._fail(str(error) or type(error).__name__)
            return
        self._tell_all(self._opened())
        self._model.pool.start()

    def _opened(self) -> Opened:
        assert self._model is not None
        return Opened(self._model.name, str(self._model.tokenizer_dir))

    def _tell_converting(self, fraction: float, what: str) -> None:
        self._converting = Converting(fraction, what)
        self._on_progress(fraction, what)
        self._tell_all(self._converting)

    def _tell_runners(self) -> None:
        """Something about the runners changed."""
        if self._model is None:
            return
        self._tell_all(self._model.pool.report_now())
        status = self._model.pool.status()
        if status.failed:
            self._fail(status.reason)
        elif not self._announced:
            self._progress(status)

    def _progress(self, status: PoolStatus) -> None:
        assert self._model is not None
        if status.ready and all(worker is not None and worker.ready for worker in self._workers):
            self._announced = True
            self._on_ready(self._settings.served_model_name or self._model.name)
        else:
            self._on_progress(status.progress, status.reason or "HTTP workers are being started")

    def _tell_all(self, message: Message) -> None:
        for worker in self._present():
            worker.channel.tell(message)

    async def _keep(self, row: int) -> None:
        """Keep one row filled with a running worker."""
        failures = 0
        while not self._over.is_set():
            worker = self._workers[row] = WorkerProcess(self._begin(row), self._hear, self._answer)
            try:
                status = await worker.run(self._attached)
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            except OSError as error:
                status, how = 1, f"could not be started: {error}"
            self._forget(row, worker)
            if self._over.is_set():
                return
            failures = 1 if worker.ready else failures + 1
            if (status == CANNOT_SERVE or failures >= MAX_FAILURES) and not self._serves():
                self._fail(f"an HTTP worker {how}")
                return
            pause = min(FIRST_BACKOFF * 2 ** (failures - 1), MAX_BACKOFF)
            log.error("HTTP worker %s %s; starting another in %g s", worker.name, how, pause)
            await asyncio.sleep(pause)

    def _serves(self) -> bool:
        """Whether clients are served all the same: then what failed is tried for as long as it takes."""
        return self._announced and any(worker.ready for worker in self._present())

    def _begin(self, row: int) -> Begin:
        assert self._board.fd is not None
        return Begin(
            settings=self._settings.model_dump(mode="json"),
            worker=str(next(self._names)),
            row=row,
            workers=len(self._workers),
            created=self._created,
            listener=self._listener.fileno(),
            board=self._board.fd,
        )

    def _attached(self, worker: WorkerProcess) -> None:
        """Tell a new worker what the others know."""
        if self._over.is_set():
            worker.signal(signal.SIGTERM)
        if self._model is None:
            worker.channel.tell(self._converting)
        else:
            worker.channel.tell(self._opened())
            worker.channel.tell(self._model.pool.report_now())

    def _forget(self, row: int, worker: WorkerProcess) -> None:
        self._workers[row] = None
        self._board.clear(row)
        self._gone = merged([self._gone, totals(worker.counted, DEFINITIONS)], DEFINITIONS)
        if self._model is not None:
            self._model.pool.forget_reports()

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case RunnerUnresponsive(address, words, seconds) if self._model is not None:
                self._model.pool.heard_quiet(address, words, seconds)
            case Report() if self._model is not None and not self._announced:
                self._progress(self._model.pool.status())

    async def _answer(self, question: Question) -> Any:
        match question:
            case WantMetrics():
                snapshots = await asyncio.gather(*map(self._counted, self._present()))
                return merged([self._gone, *snapshots], DEFINITIONS)
            case WantStored(owner):
                for worker in self._present():
                    if worker.name == owner:
                        return await worker.channel.ask(question, bytes | None)  # type: ignore[arg-type]
                return None
            case WantRunners() if self._model is not None:
                return self._model.pool.report_now()
            case WantRestart(index, patience) if self._model is not None:
                try:
                    await self._model.pool.restart(index, patience)
                except LookupError:
                    return False
                return True
        raise Unanswered

    async def _counted(self, worker: WorkerProcess) -> Snapshot:
        """What a worker counted up to now, or up to its latest report if it does not answer."""
        try:
            return await worker.channel.ask(WantMetrics(), Snapshot, METRICS_PATIENCE)
        except Unanswered:
            return worker.counted
