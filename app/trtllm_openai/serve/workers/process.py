"""One HTTP worker process, seen from the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.keep_running import STABLE_AFTER_S
from trtllm_openai.serve.workers.channel import Channel, frame
from trtllm_openai.serve.workers.messages import REPORT_INTERVAL, Begin, Message, Question, Report
from trtllm_openai.telemetry.values import Snapshot

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT_S = 30
"""Heartbeat timeout in seconds, after which a worker is killed."""


class WorkerProcess:
    """Starts the process and keeps its latest report."""

    def __init__(
        self,
        begin: Begin,
        hear: Callable[[WorkerProcess, Message], None],
        answer: Callable[[Question], Awaitable[Any]],
    ) -> None:
        """`hear` is called with every one-way message, `answer` with every question."""
        self.name = begin.worker
        self.counted: Snapshot = {}
        """Metrics of its latest report."""
        self.ready = False
        """Whether it takes requests."""
        self._ready_since = math.inf  # on the monotonic clock, in seconds
        self.missed = 0
        """Report intervals since its latest message; counted, not timed: a supervisor that was suspended must
        not blame the workers."""
        self._begin = begin
        self._hear = hear
        self._end, self._other_end = socket.socketpair()
        self.channel = Channel(self._end, self._heard, answer)
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, on_attached: Callable[[WorkerProcess], None]) -> int:
        """Run the process to its end. Returns its exit status, -N if signal N killed it; raises `OSError`.

        `on_attached` is called once messages can be sent to it.
        """
        fds = (self._other_end.fileno(), self._begin.listener, self._begin.counters)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *module("trtllm_openai.serve.workers", str(fds[0])),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # signals from the terminal reach only the supervisor
                env=child_environment(),
            )
        except BaseException:
            self._end.close()
            raise
        finally:
            self._other_end.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; its status says more
            self._end.sendall(frame(self._begin))
        await self.channel.open()
        on_attached(self)
        listening = asyncio.create_task(self.channel.run())
        watching = asyncio.create_task(self._watch())
        try:
            return await self._process.wait()
        finally:
            watching.cancel()
            self.signal(signal.SIGKILL)  # does nothing unless this task was cancelled
            await asyncio.gather(listening, watching, return_exceptions=True)

    @property
    def was_ready(self) -> bool:
        """Whether it ever took requests."""
        return self._ready_since < math.inf

    @property
    def stable(self) -> bool:
        """Whether it took requests for so long that failures of its predecessors no longer count."""
        return time.monotonic() - self._ready_since > STABLE_AFTER_S

    def signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _heard(self, message: Message) -> None:
        self.missed = 0
        if isinstance(message, Report):
            self.counted, self.ready = message.snapshot, message.ready
            if self.ready:
                self._ready_since = min(self._ready_since, time.monotonic())
        self._hear(self, message)

    async def _watch(self) -> None:
        """Kill the process when its heartbeat stops: its event loop, and so every connection, hangs."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            self.missed += 1
            if self.missed * REPORT_INTERVAL > HEARTBEAT_TIMEOUT_S:
                log.error(
                    "HTTP worker %s sent no heartbeat for %d s; killing it", self.name, HEARTBEAT_TIMEOUT_S
                )
                self.signal(signal.SIGKILL)
                return
