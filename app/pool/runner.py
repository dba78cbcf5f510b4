"""One ModelRunner seen from an HTTP worker: its process, its socket, its state, its live sequences."""

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
from typing import Literal

import msgspec
import zmq

from app.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput
from app.pool.generation import Generation
from app.runner.messages import (
    CANNOT_START,
    Abort,
    Failed,
    FromRunner,
    Hello,
    LaunchSpec,
    Loading,
    Outputs,
    Ready,
    Stats,
    Submit,
    ToRunner,
    decode_from_runner,
    encode,
)

log = logging.getLogger(__name__)

State = Literal["starting", "loading", "ready", "failed", "stopped"]
LAST_WORDS = 0.5
"""Seconds to wait for the `Failed` message of a runner that has ended."""
MESSAGES_AT_ONCE = 16
RETIRE_POLL = 0.05
STALLED_SHARE = 0.25
"""Of the stall timeout, after which a silent runner counts as stalled; at the end of it, it is replaced."""
# As plain integers: arithmetic with pyzmq's flags costs more than the calls.
EVENTS, POLLIN, NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Runner:
    """Starts a runner process and talks to it. `on_change` is called after every change of state."""

    def __init__(
        self,
        spec: LaunchSpec,
        context: zmq.Context[zmq.Socket[bytes]],
        stall_timeout: float,
        on_change: Callable[[Runner], None],
        on_lost: Callable[[GenerationRequest, Generation], bool] = lambda *_: False,
    ) -> None:
        """`on_lost` may take over a sequence that was lost before anything of it was sent."""
        self._on_lost = on_lost
        self.index = spec.index
        self.state: State = "starting"
        self.progress = Loading(0.0, "starting the process")
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.failure: Failed | None = None
        self._failed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._on_change = on_change
        self._stall_timeout = stall_timeout
        self._progressed = 0.0  # when a result was last seen, or the first request sent
        self.stalled = ""
        """Why this runner is not counted on now, though it has not failed: in words, or empty."""
        self.retiring = False
        """It is asked to end, and takes nothing new."""
        self._socket = context.socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.reconnect_ivl = 20  # ms; the address exists once the process has bound it
        self._generations: dict[str, Generation] = {}
        self._untold: dict[str, GenerationRequest] = {}  # nothing of theirs was sent to the client yet
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def load(self) -> int:
        """Live sequences on this runner."""
        return len(self._generations)

    @property
    def pid(self) -> int | None:
        """The runner's process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process in a process group of its own and attach to it."""
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(PACKAGE_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        )
        if self._spec.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._spec.gpus
        encoded = msgspec.json.encode(self._spec) + b"\n"
        command = [*self._spec.command, sys.executable, "-m", "app.runner"]
        if self._spec.command:  # standard input reaches only one of the ranks
            file = Path(self._spec.address.removeprefix("ipc://")).with_suffix(".json")
            file.write_bytes(encoded)
            command += ["--spec", str(file)]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        assert self._process.stdin is not None
        if not self._spec.command:
            self._process.stdin.write(encoded)
        self._socket.connect(self._spec.address)
        self._loop.add_reader(self._socket, self._receive)
        self._send(Hello())
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._watch_progress()),
        ]

    def submit(self, requests: list[GenerationRequest], generation: Generation) -> None:
        """Send requests to the engine; their deltas go to `generation`."""
        if not self._generations:
            self._progressed = time.monotonic()
        for request in requests:
            self._generations[request.request_id] = generation
            self._untold[request.request_id] = request
        self._send(Submit(requests))

    def abort(self, request_ids: list[str]) -> None:
        """End sequences within one engine step and forget them at once."""
        for request_id in request_ids:
            self._untold.pop(request_id, None)
        known = [
            request_id for request_id in request_ids if self._generations.pop(request_id, None) is not None
        ]
        if known and self.state == "ready":
            self._send(Abort(known))

    async def retire(self, patience: float) -> None:
        """Take nothing new, and end when what runs is done, or after `patience` seconds."""
        self.retiring = True
        self._on_change(self)
        deadline = time.monotonic() + patience
        while self._generations and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and not in a hurry
            await asyncio.sleep(RETIRE_POLL)
        self._kill(f"runner {self.index} was restarted on request")

    async def stop(self, patience: float) -> None:
        """End the process: politely, then, after `patience` seconds, the whole group by force."""
        self._set_state("stopped")
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_live("the server is shutting down")
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _send(self, message: ToRunner) -> None:
        self._socket.send(encode(message))  # without a high-water mark it never blocks
        # The descriptor tells of a change only once, and this call may have been the one that saw it.
        if int(self._socket.getsockopt(EVENTS)) & POLLIN:
            self._loop.call_soon(self._receive)

    def _receive(self) -> None:
        """Handle what has come; a part of it, if it is much, so that others have their turn."""
        for _ in range(MESSAGES_AT_ONCE):
            if self._socket.closed:
                return
            try:
                frame = self._socket.recv(NOBLOCK)
            except zmq.Again:
                return
            self._handle(decode_from_runner(frame))
        self._loop.call_soon(self._receive)

    def _handle(self, message: FromRunner) -> None:
        match message:
            case Outputs(outputs):
                self._progressed = time.monotonic()
                self._dispatch(outputs)
            case Stats(stats):
                if stats.steps != self.stats.steps:  # e.g. in the middle of a long prompt
                    self._progressed = time.monotonic()
                self.stats = stats
            case Loading():
                self.progress = message
                self._set_state("loading")
            case Ready(info):
                self.info = info
                self._set_state("ready")
            case Failed():
                self.failure = message
                self._failed.set()

    def _dispatch(self, outputs: list[StepOutput]) -> None:
        """Give each delta to its generation, then have each generation's consumer called, once."""
        generations, untold = self._generations, self._untold
        listening = []
        for output in outputs:
            generation = generations.get(output.request_id)
            if untold:
                untold.pop(output.request_id, None)
            if generation is None:
                continue
            if output.finish_reason is not None:
                del generations[output.request_id]
            if generation.put(output):
                listening.append(generation)
        for generation in listening:
            generation.listener()

    async def _watch(self) -> None:
        """Wait for the process to end; nothing but `stop` makes that an expected end."""
        assert self._process is not None
        status = await self._process.wait()
        if self.state == "stopped":
            return
        with contextlib.suppress(TimeoutError):  # its last words may still be in the socket
            async with asyncio.timeout(LAST_WORDS):
                await self._failed.wait()
        if self.failure is None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self.failure = Failed(f"runner {self.index} {how}", final=status == CANNOT_START)
        self._signal_group(signal.SIGKILL)  # engine ranks it may have left behind
        self.stats = EngineStats()
        self._fail_live("the model runner failed while generating")
        self._set_state("failed")

    async def _watch_progress(self) -> None:
        """Kill the process when requests run and nothing comes: an engine with a dead rank says nothing."""
        while True:
            await asyncio.sleep(min(1.0, self._stall_timeout / 8))
            quiet = time.monotonic() - self._progressed
            if not self._generations or self.state != "ready" or quiet <= STALLED_SHARE * self._stall_timeout:
                quiet = 0.0
            was, self.stalled = self.stalled, ""
            if quiet:
                self.stalled = f"gave no result for {quiet:.0f} s while {self.load} requests ran"
            if quiet > self._stall_timeout:
                self._kill(f"runner {self.index} {self.stalled}")
                return
            if bool(was) != bool(self.stalled):
                self._on_change(self)

    def _kill(self, reason: str) -> None:
        self.failure = Failed(reason, final=False)
        self._failed.set()
        self._signal_group(signal.SIGKILL)

    def _fail_live(self, message: str) -> None:
        live, self._generations = self._generations, {}
        untold, self._untold = self._untold, {}
        for request_id, generation in live.items():
            request = untold.get(request_id)
            if request is not None and self.state != "stopped" and self._on_lost(request, generation):
                continue
            generation.fail(request_id, message)

    def _signal_group(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _set_state(self, state: State) -> None:
        if self.state not in ("stopped", "failed"):
            self.state = state
            self._on_change(self)
