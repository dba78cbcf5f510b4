"""The `Deployment` of an HTTP worker: shared state is reached through its channel to the supervisor."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trtllm_openai.api.responses.store import Operation, StoredAnswer
from trtllm_openai.config import Settings
from trtllm_openai.errors import PoolError, Unanswered
from trtllm_openai.runners import SequencePool
from trtllm_openai.runners.attached import AttachedPool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.state import RunnerReport, RunnerUnresponsive
from trtllm_openai.serve.model import ServedModel
from trtllm_openai.serve.workers.channel import Channel
from trtllm_openai.serve.workers.messages import (
    Begin,
    Converting,
    Message,
    NotDecoded,
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
from trtllm_openai.telemetry.failures import Failure
from trtllm_openai.telemetry.history import History, Overview
from trtllm_openai.telemetry.values import Snapshot
from trtllm_openai.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """Implements `serve.deployment.Deployment` and `runners.attached.SupervisorClient`."""

    def __init__(self, begin: Begin, end: socket.socket, snapshot: Callable[[], Snapshot]) -> None:
        """`end`: socket of the channel, from which `begin` was read. `snapshot`: metrics of this process."""
        self.worker = begin.worker
        self.workers = begin.workers
        self.created = begin.created
        self.counters = SharedCounters.attach(begin.counters, begin.workers, begin.row)
        self.history: History | None = None
        self.supervisor_gone = asyncio.Event()
        """Set when the supervisor has ended: this process has to end too."""
        self._row = begin.row
        self._snapshot = snapshot
        self._channel = Channel(end, self._hear, self._answer)
        self._pool: AttachedPool | None = None
        self._opened: asyncio.Future[Opened] | None = None
        self._converting: Callable[[float, str], None] = lambda *_: None
        self._stored: StoredAnswer | None = None
        self._failures: Callable[[], list[Failure]] = list
        self._listening: asyncio.Task[None] | None = None

    async def open_model(
        self, settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
    ) -> ServedModel[SequencePool]:
        self._opened = asyncio.get_running_loop().create_future()
        self._converting = converting
        self._pool = AttachedPool(
            self.worker,
            self._row,
            self,
            stall_timeout=settings.stall_timeout,
            on_change=on_change,
            affinity=settings.runners.routing == "prefix",
            grows=not settings.replica_range.fixed,
        )
        await self._channel.open()
        self._listening = asyncio.create_task(self._listen())
        opened = await self._opened
        directory = Path(opened.tokenizer_dir)
        tokenizer = await asyncio.to_thread(Tokenizer.load, directory, settings.chat_template)
        return ServedModel(opened.name, tokenizer, directory, opened.sampling_defaults, self._pool)

    async def merged_metrics(self, own: Callable[[], Snapshot]) -> Snapshot:
        # No fallback to `own`: a partial sum would look like a counter reset.
        return await self._ask_supervisor(WantMetrics(), Snapshot)

    def serve_failures(self, own: Callable[[], list[Failure]]) -> None:
        self._failures = own

    async def overview(self) -> Overview:
        return await self._ask_supervisor(WantOverview(), Overview)

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        self._stored = answer

    async def fetch_stored_response(
        self, owner: str, operation: Operation, response_id: str, key: str
    ) -> bytes | None:
        question = WantStored(owner, operation, response_id, key)
        try:
            return await self._channel.ask(question, bytes | None)  # type: ignore[arg-type]
        except Unanswered:
            return None

    def tell(self, message: RunnerUnresponsive | Report) -> None:
        """Send a message to the supervisor."""
        self._channel.tell(message)

    def report(self, ready: bool) -> None:
        """Send a heartbeat. `ready`: whether this process takes requests."""
        self.tell(Report(self._snapshot(), ready))

    async def runners(self) -> RunnerReport:
        return await self._ask_supervisor(WantRunners(), RunnerReport)

    async def restart(self, index: int, drain_timeout_s: float) -> bool:
        return await self._ask_supervisor(WantRestart(index, drain_timeout_s), bool)

    async def _ask_supervisor(self, question: Question, kind: type[T]) -> T:
        try:
            return await self._channel.ask(question, kind)
        except Unanswered:
            raise PoolError("the supervisor does not respond", loading=True) from None

    async def _listen(self) -> None:
        try:
            await self._channel.run()
        except Exception:  # without the channel nobody would replace this process
            log.exception("the channel to the supervisor broke")
        self.supervisor_gone.set()

    def _hear(self, message: Message) -> None:
        match message:
            case Converting(fraction, what):
                self._converting(fraction, what)
            case Opened() if self._opened is not None and not self._opened.done():
                self._opened.set_result(message)
            case NotDecoded("opened") if self._opened is not None and not self._opened.done():
                self._opened.set_exception(
                    PoolError("the supervisor's message could not be decoded", loading=False)
                )
            case RunnerReport() if self._pool is not None:
                self._pool.update(message)

    async def _answer(self, question: Question) -> Any:
        match question:
            case WantMetrics():
                return self._snapshot()
            case WantFailures():
                return self._failures()
            case WantStored(_, operation, response_id, key) if self._stored is not None:
                return await self._stored(operation, response_id, key)
        raise Unanswered
