"""One HTTP worker process seen from the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from trtllm_openai.runners.process import child_environment
from trtllm_openai.serve.workers.channel import Channel, frame
from trtllm_openai.serve.workers.messages import REPORT_INTERVAL, Begin, Message, Question, Report
from trtllm_openai.telemetry.values import Snapshot

log = logging.getLogger(__name__)

SILENCE = 30
"""Seconds without a report after which a worker is killed."""


class WorkerProcess:
    """Starts the process, and knows what it last reported."""

    def __init__(
        self,
        begin: Begin,
        hear: Callable[[WorkerProcess, Message], None],
        answer: Callable[[Question], Awaitable[Any]],
    ) -> None:
        """`hear` gets what is no question, and every report once it was noted."""
        self.name = begin.worker
        self.counted: Snapshot = {}
        """Its metrics as of its latest report."""
        self.ready = False
        """Whether it takes requests."""
        self._begin = begin
        self._hear = hear
        self._silent = 0
        self._end, self._other_end = socket.socketpair()
        self.channel = Channel(self._end, self._heard, answer)
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, on_attached: Callable[[WorkerProcess], None]) -> int:
        """Start it, listen until it is gone, return its exit status. `on_attached`: it can be told things."""
        fds = (self._other_end.fileno(), self._begin.listener, self._begin.board)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "trtllm_openai.serve.workers", str(fds[0])),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # signals of the terminal are for the supervisor
                env=child_environment(),
            )
        except BaseException:
            self._end.close()
            raise
        finally:
            self._other_end.close()
        self._end.sendall(frame(self._begin))
        await self.channel.open()
        on_attached(self)
        listening = asyncio.create_task(self.channel.run())
        watching = asyncio.create_task(self._watch())
        try:
            return await self._process.wait()
        finally:
            watching.cancel()
            self.signal(signal.SIGKILL)  # we are cancelled, or it is gone
            await asyncio.gather(listening, watching, return_exceptions=True)

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _heard(self, message: Message) -> None:
        self._silent = 0
        if isinstance(message, Report):
            self.counted, self.ready = message.snapshot, message.ready
        self._hear(self, message)

    async def _watch(self) -> None:
        """Kill it when it says nothing: its event loop hangs, and with it every connection that it has."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            self._silent += 1  # counted, not timed: a supervisor that was stopped heard nobody either
            if self._silent * REPORT_INTERVAL > SILENCE:
                log.error("HTTP worker %s said nothing for %d s; killing it", self.name, SILENCE)
                self.signal(signal.SIGKILL)
                return
