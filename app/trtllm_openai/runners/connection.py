"""One ModelRunner seen from an HTTP process: its socket, what it said of itself, what it works on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trtllm_openai.engine_host.messages import (
    Abort,
    Failed,
    FromRunner,
    Loading,
    Outputs,
    Ready,
    Stats,
    Submit,
    ToRunner,
    decode_from_runner,
    encode,
)
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput
from trtllm_openai.processes.framing import FramedSocket
from trtllm_openai.runners.generation import Generation

State = Literal["starting", "loading", "ready"]
ATTACH_POLL = 0.02
"""Seconds between two tries to reach a runner that does not listen yet."""
STALLED_SHARE = 0.25
"""Of the stall timeout, after which a silent runner counts as stalled; at the end of it, it is replaced."""


@dataclass(frozen=True, slots=True)
class ConnectionEvents:
    """What a link tells its owner."""

    changed: Callable[[RunnerConnection], None]
    """Its state is another one."""
    quiet: Callable[[RunnerConnection, float], None]
    """Requests run and nothing comes: for so many seconds now; 0 once something came again."""
    lost: Callable[[GenerationRequest, Generation], bool]
    """May take over a sequence that was lost before anything of it was sent; whether it does."""


class RunnerConnection:
    """Talks to the runner that listens at `address`, whoever started it."""

    def __init__(self, index: int, address: str, events: ConnectionEvents, *, stall_timeout: float) -> None:
        self.index = index
        self.address = address
        self.state: State = "starting"
        self.progress = Loading(0.0, "starting the process")
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.failure: Failed | None = None
        """Why it ends, in its own words."""
        self.ended = asyncio.Event()
        """All that the runner said has come, and no more will."""
        self.retiring = False
        """It is asked to end, and takes nothing new."""
        self.reported = ""
        """What others see wrong with it: in words, or empty."""
        self.elsewhere = 0
        """Sequences on it that others sent, as of its latest statistics."""
        self.seen = ""
        """What this end sees wrong with it: in words, or empty."""
        self._events = events
        self._stall_timeout = stall_timeout
        self._progressed = 0.0  # when a result was last seen, or the first request sent
        self._loop = asyncio.get_running_loop()
        self._socket: FramedSocket | None = None
        self._generations: dict[str, Generation] = {}
        self._untold: dict[str, GenerationRequest] = {}  # nothing of theirs was sent to the client yet
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def load(self) -> int:
        """Live sequences that were sent through this link."""
        return len(self._generations)

    @property
    def attached(self) -> bool:
        """Whether the runner can be heard."""
        return self._socket is not None

    @property
    def takes_requests(self) -> bool:
        """Whether new sequences may be sent."""
        return self.state == "ready" and not self.retiring and self.failure is None

    @property
    def stalled(self) -> str:
        """Why this runner is not counted on now, though it has not failed: in words, or empty."""
        return self.seen or self.reported

    def open(self) -> None:
        """Attach to the runner; it may come into being later."""
        self._tasks = [asyncio.create_task(self._attach()), asyncio.create_task(self._watch_progress())]

    def close(self, message: str, *, lost: bool) -> None:
        """Detach. What is live ends with this error, or is taken over if its runner was `lost`."""
        for task in self._tasks:
            task.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            while self._receive_some(self._socket):  # what it sent before its end still counts
                pass
            self._socket.close()
            self._socket = None
        self._fail_live(message, lost=lost)

    def _fail_live(self, message: str, *, lost: bool) -> None:
        """End every live sequence with this error, but for those that are taken over."""
        live, self._generations = self._generations, {}
        untold, self._untold = self._untold, {}
        for request_id, generation in live.items():
            request = untold.get(request_id)
            if lost and request is not None and self._events.lost(request, generation):
                continue
            generation.fail(request_id, message)

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

    def _send(self, message: ToRunner) -> None:
        """Send to a runner that was heard; never waits."""
        if self._socket is not None:
            self._socket.send(encode(message))
            if self._socket.blocked:
                self._loop.add_writer(self._socket.fileno(), self._flush, self._socket)

    def _flush(self, end: FramedSocket) -> None:
        end.flush()
        if not end.blocked:
            self._loop.remove_writer(end.fileno())

    async def _attach(self) -> None:
        while (end := FramedSocket.connect(self.address)) is None:  # noqa: ASYNC110 - another process listens
            await asyncio.sleep(ATTACH_POLL)
        self._socket = end
        self._loop.add_reader(end.fileno(), self._receive, end)

    def _receive(self, end: FramedSocket) -> None:
        """Handle what has come; a part of it, if it is much, so that others have their turn."""
        self._receive_some(end)
        if end.gone:
            self._loop.remove_reader(end.fileno())
            self.ended.set()

    def _receive_some(self, end: FramedSocket) -> bool:
        bodies = end.receive()
        for body in bodies:
            self._handle(decode_from_runner(body))
        return bool(bodies)

    def _handle(self, message: FromRunner) -> None:
        match message:
            case Outputs(outputs):
                self._progressed = time.monotonic()
                self._dispatch(outputs)
            case Stats(stats):
                if stats.steps != self.stats.steps:  # e.g. in the middle of a long prompt
                    self._progressed = time.monotonic()
                self.stats = stats
                self.elsewhere = max(0, stats.running + stats.waiting - len(self._generations))
            case Loading():
                self.progress = message
                self._set_state("loading")
            case Ready(info):
                self.info = info
                self._set_state("ready")
            case Failed():
                self.failure = message

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

    async def _watch_progress(self) -> None:
        """Tell when requests run and nothing comes: an engine with a dead rank says nothing."""
        while True:
            await asyncio.sleep(min(1.0, self._stall_timeout / 8))
            quiet = time.monotonic() - self._progressed
            if not self._generations or self.state != "ready" or quiet <= STALLED_SHARE * self._stall_timeout:
                quiet = 0.0
            was, self.seen = self.seen, ""
            if quiet:
                self.seen = f"gave no result for {quiet:.0f} s while {self.load} requests ran"
            if quiet or was:
                self._events.quiet(self, quiet)

    def _set_state(self, state: State) -> None:
        self.state = state
        self._events.changed(self)
