"""`replicas` ModelRunners behind one door, started together and kept running.

A runner that dies is started again after a pause that doubles; one that cannot start as configured, or that
fails `MAX_FAILURES` times in a row without having been ready for `STABLE_AFTER` seconds, is given up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.process import RunnerProcess
from trtllm_openai.runners.state import RunnerReport, RunnerState

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
MAX_FAILURES = 5
STABLE_AFTER = 60.0
STOP_TIMEOUT = 5.0
LONGEST_TEMPORARY = 57
"""Bytes of the path in which the sockets' directory is made: its 23 and a socket's name must fit into 107."""


def directory_for_sockets() -> Path:
    """A new directory that is nobody else's (mode 0700), whose path leaves room for a socket's name."""
    fits = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TEMPORARY
    return Path(tempfile.mkdtemp(prefix="trtllm-openai-", dir=None if fits else "/tmp"))


class RunnerPool(SequencePool):
    """Owns the runner processes. `on_change` is called after any of them changed its state."""

    def __init__(
        self,
        specs: Sequence[LaunchSpec],
        *,
        load_timeout: float,
        stall_timeout: float,
        on_change: Callable[[], None],
    ) -> None:
        """`specs`: one for each replica; the pool gives them their addresses."""
        super().__init__()
        self._specs = specs
        self._stall_timeout = stall_timeout
        self._load_timeout = load_timeout
        self._on_change = on_change
        self._directory = directory_for_sockets()
        self._slots: list[RunnerProcess | None] = [None] * len(specs)
        self._given_up: dict[int, str] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def runners(self) -> list[RunnerProcess]:
        """The runners that have a process now, in order of their index."""
        return [runner for runner in self._slots if runner is not None]

    @property
    def links(self) -> list[RunnerConnection]:
        return [runner.link for runner in self._slots if runner is not None]

    def states(self) -> list[RunnerState]:
        return [self._state_of(index, runner) for index, runner in enumerate(self._slots)]

    def report_now(self) -> RunnerReport:
        """Each runner as it is now."""
        return RunnerReport(self.states(), self.restarts)

    async def report(self) -> RunnerReport:
        return self.report_now()

    def start(self) -> None:
        """Begin to start every runner; returns at once, `on_change` tells the rest."""
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(len(self._slots))]

    async def stop(self) -> None:
        """Stop every runner and remove the sockets."""
        for task in (*self._keepers, *self._retiring):
            task.cancel()
        await asyncio.gather(*self._keepers, *self._retiring, return_exceptions=True)
        await asyncio.gather(*(runner.stop(STOP_TIMEOUT) for runner in self.runners))
        shutil.rmtree(self._directory, ignore_errors=True)

    async def restart(self, index: int, patience: float) -> None:
        if index not in range(len(self._slots)):
            raise LookupError(f"There is no runner {index}; there are {len(self._slots)}.")
        runner = self._slots[index]
        if index in self._given_up:
            del self._given_up[index]
            self._keepers[index] = asyncio.create_task(self._keep(index))
        elif runner is not None and not runner.link.retiring:
            task = asyncio.create_task(runner.retire(patience))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def heard_quiet(self, address: str, words: str, seconds: float) -> None:
        """Another process has waited for a result of the runner at `address`; `words` empty: not any more."""
        for runner in self.runners:
            if runner.link.address == address:
                runner.link.reported = words
                self._quiet(runner.link, seconds)

    def forget_reports(self) -> None:
        """Others' words about runners count no more, for who said them may be gone; the rest say so again."""
        for runner in self.runners:
            runner.link.reported = ""

    def _state_of(self, index: int, runner: RunnerProcess | None) -> RunnerState:
        if index in self._given_up:
            return RunnerState(index=index, state="given_up", reason=self._given_up[index])
        return RunnerState(index=index, state="starting") if runner is None else runner.state()

    def _quiet(self, link: RunnerConnection, seconds: float) -> None:
        """Replace a runner that has said nothing for too long."""
        runner = self._slots[link.index]
        if seconds > self._stall_timeout and runner is not None and runner.link is link:
            runner.kill(f"runner {link.index} {link.stalled}")
        self._changed()

    def _changed(self) -> None:
        self._heard()
        self._on_change()

    async def _keep(self, index: int) -> None:
        """Keep one slot of the pool filled with a running runner."""
        failures = 0
        while True:
            address = f"{self._directory}/runner-{index}-{self.restarts}.sock"
            spec = msgspec.structs.replace(self._specs[index], address=address, index=index)
            loaded = asyncio.Event()
            link = RunnerConnection(index, address, self._telling(loaded), stall_timeout=self._stall_timeout)
            runner = RunnerProcess(spec, link, self._changed)
            self._slots[index] = runner
            await runner.start()
            started = time.monotonic()
            reason = await self._wait_for_end(runner, loaded)
            await runner.stop(STOP_TIMEOUT)
            if link.retiring or (loaded.is_set() and time.monotonic() - started > STABLE_AFTER):
                failures = 0
            failures += 1
            self._slots[index] = None
            if (runner.failure is not None and runner.failure.final) or failures >= MAX_FAILURES:
                log.error("runner %d is given up after %d failures: %s", index, failures, reason)
                self._given_up[index] = reason
                self._changed()
                return
            pause = min(FIRST_BACKOFF * 2 ** (failures - 1), MAX_BACKOFF)
            log.error("runner %d failed (%s); starting it again in %g s", index, reason, pause)
            self._changed()
            await asyncio.sleep(pause)
            self.restarts += 1

    def _telling(self, loaded: asyncio.Event) -> ConnectionEvents:
        """The link's events, of which one also says that the runner has loaded."""

        def changed(link: RunnerConnection) -> None:
            if link.state == "ready":
                loaded.set()
            self._changed()

        return ConnectionEvents(changed, self._quiet, self._adopt)

    async def _wait_for_end(self, runner: RunnerProcess, loaded: asyncio.Event) -> str:
        """Wait until the runner ended or did not load in time; returns the reason."""
        end = asyncio.create_task(runner.ended.wait())
        load = asyncio.create_task(loaded.wait())
        try:
            done, _ = await asyncio.wait(
                {end, load}, timeout=self._load_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return f"it did not load within {self._load_timeout:g} s"
            await end
        finally:
            for task in (end, load):
                task.cancel()
        return runner.failure.message if runner.failure is not None else "unknown"
