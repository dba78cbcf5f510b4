"""One ModelRunner seen from the process that owns it: its own process, its end, and the link to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from trtllm_openai.engine_host.messages import CANNOT_START, Failed, LaunchSpec
from trtllm_openai.generation import EngineStats
from trtllm_openai.runners.connection import RunnerConnection
from trtllm_openai.runners.state import Phase, RunnerState

log = logging.getLogger(__name__)

LAST_WORDS = 0.5
"""Seconds to wait for what a runner that has ended had said: a child of its own may hold the socket open."""
RETIRE_POLL = 0.05
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def child_environment() -> dict[str, str]:
    """This process's environment, in which a child finds this package."""
    path = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


class RunnerProcess:
    """Starts a runner process at the address of `link`. `on_change` is called when it ends."""

    def __init__(self, spec: LaunchSpec, link: RunnerConnection, on_change: Callable[[], None]) -> None:
        self.index = spec.index
        self.link = link
        self.ended = asyncio.Event()
        """The process is gone, and nothing but `stop` makes that an expected end."""
        self._spec = spec
        self._on_change = on_change
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The runner's process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def failure(self) -> Failed | None:
        """Why it ended."""
        return self.link.failure

    @property
    def sequences(self) -> int:
        """Live on it, whoever sent them; what others sent is as of its latest statistics."""
        stats = self.link.stats
        return max(self.link.load, stats.running + stats.waiting)

    def state(self) -> RunnerState:
        """Where it stands."""
        link = self.link
        state: Phase = link.state
        reason, loaded = "", 1.0
        if self.ended.is_set():
            state, loaded = "starting", 0.0
        elif link.retiring:
            state = "restarting"
        elif link.stalled:
            state, reason = "stalled", link.stalled
        elif link.state != "ready":
            state, reason, loaded = "loading", link.progress.what, link.progress.fraction
        address = "" if self.ended.is_set() else link.address
        return RunnerState(
            index=self.index,
            state=state,
            reason=reason,
            loaded=loaded,
            pid=self.pid,
            sequences=self.sequences,
            address=address,
        )

    async def start(self) -> None:
        """Start the process in a process group of its own and attach to it."""
        environment = child_environment()
        if self._spec.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._spec.gpus
        encoded = msgspec.json.encode(self._spec) + b"\n"
        command = [*self._spec.command, sys.executable, "-m", "trtllm_openai.engine_host"]
        if self._spec.command:  # standard input reaches only one of the ranks
            file = Path(self._spec.address).with_suffix(".json")
            file.write_bytes(encoded)
            command += ["--spec", str(file)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            self.link.failure = Failed(f"runner {self.index} could not be started: {error}", final=False)
            self.ended.set()
            return
        assert self._process.stdin is not None
        if not self._spec.command:
            self._process.stdin.write(encoded)
        self.link.open()
        self._watcher = asyncio.create_task(self._watch())

    async def retire(self, patience: float) -> None:
        """Take nothing new, and end when what runs is done, or after `patience` seconds."""
        self.link.retiring = True
        self._on_change()
        deadline = time.monotonic() + patience
        while self.sequences and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and not in a hurry
            await asyncio.sleep(RETIRE_POLL)
        self.kill(f"runner {self.index} was restarted on request")

    def kill(self, reason: str) -> None:
        """End it by force."""
        self.link.failure = Failed(reason, final=False)
        self._signal_group(signal.SIGKILL)

    async def stop(self, patience: float) -> None:
        """End the process: politely, then, after `patience` seconds, the whole group by force."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            self._signal_group(signal.SIGTERM)
            if process.stdin is not None:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), patience)
            except TimeoutError:
                log.warning("runner %d did not stop within %g s; killing it", self.index, patience)
        self._signal_group(signal.SIGKILL)
        if process is not None:
            await process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self.link.close("the server is shutting down", lost=False)

    async def _watch(self) -> None:
        """Wait for the process to end."""
        assert self._process is not None
        status = await self._process.wait()
        if self._stopping:
            return
        if self.link.attached:  # its last words may still be in the socket
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.link.ended.wait(), LAST_WORDS)
        if self.link.failure is None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self.link.failure = Failed(f"runner {self.index} {how}", final=status == CANNOT_START)
        self._signal_group(signal.SIGKILL)  # engine ranks it may have left behind
        self.link.stats = EngineStats()
        self.ended.set()
        self.link.close("the model runner failed while generating", lost=True)
        self._on_change()

    def _signal_group(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
