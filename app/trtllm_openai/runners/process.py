"""A runner that this process launches: one state machine from the first start to the last.

The process is launched, followed to its end, and launched again (`processes.keep_running`: at once if it had
loaded, after a delay if it fails again and again), until it is stopped. One that cannot start is given up: it
is launched again after a long pause, or when asked
for. What ends a runner that had loaded, such as a request, never gives it up. A runner is FAILED, and serves
nobody, from the moment that it says so, that its process or connection ends, that it does not load in time,
or that it is silent for too long; its process then has `EXIT_TIMEOUT_S` seconds to end before it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable

import msgspec

from trtllm_openai.engine_host.messages import CANNOT_START, Failed, LaunchSpec, Loading, Ready
from trtllm_openai.processes.address import parse_address, refuse_plain_text
from trtllm_openai.processes.authentication import new_secret
from trtllm_openai.processes.keep_running import STABLE_AFTER_S, Ended, keep_running
from trtllm_openai.processes.tls import new_identity
from trtllm_openai.runners.connection import RunnerConnection
from trtllm_openai.runners.launcher import Launcher, RunnerHandle
from trtllm_openai.runners.runner import RUNNER_LOST, SHUTTING_DOWN, Adopt, Runner
from trtllm_openai.runners.state import Endpoint, Phase

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 5.0
"""Seconds for a process to end, when it failed or was asked to, before it is killed."""
LAST_MESSAGE_TIMEOUT_S = 0.5
"""Seconds between the end of a process and that of its connection: its own children may hold the socket."""
Running = tuple[Callable[[], Awaitable[RunnerHandle]], Endpoint]
"""A runner that another process launched: what gets its handle, or raises `OSError` if it is gone; and where
it is."""
DRAIN_POLL_S = 0.05
SETTLED_S = 1.0
"""Seconds without a sequence after which a runner that is not needed is ended. What other processes had sent
before they heard of it has come by then, and shows in its statistics."""
RESTART = "before it is restarted on request"
NOT_NEEDED = "before it is ended, as it is not needed"
OWN = ""


class RunnerProcess(Runner):
    """Keeps one runner running. Must be `start`ed and `stop`ped."""

    def __init__(
        self,
        spec: LaunchSpec,
        launcher: Launcher,
        adopt: Adopt,
        on_change: Callable[[], None],
        *,
        load_timeout: float,
        stall_timeout: float,
        retry_interval: float,
        running: Running | None = None,
    ) -> None:
        """`load_timeout`: seconds from launch to READY; `stall_timeout`: see `Runner`.

        `retry_interval`: seconds before it is launched again after it was given up. `running`: it is taken
        over instead of being launched the first time.
        """
        super().__init__(spec.index, adopt, on_change, stall_timeout=stall_timeout)
        self.launches = 0
        """How often the process was started, or tried to be."""
        self._spec = spec
        self._running = running
        self._launcher = launcher
        self._load_timeout = load_timeout
        self._retry_interval = retry_interval
        self._asked_for = asyncio.Event()  # a restart of this runner, which was given up
        self._handle: RunnerHandle | None = None
        self._failure: Failed | None = None
        self._failed = asyncio.Event()
        self._worked = running is not None  # a launch, this or an earlier one
        self._ready_since = math.inf  # on the monotonic clock, in seconds
        self._proven = False  # this launch worked, so that earlier failures no longer count
        self._silences: dict[str, str] = {}  # observer -> what it sees, while it sees a silent runner
        self._keeper: asyncio.Task[None] | None = None
        self._drainer: asyncio.Task[None] | None = None
        self._released = False
        self._ending = False  # for good: it was retired, and has no sequences

    @property
    def gpus(self) -> str | None:
        return self._spec.gpus

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle is not None else None

    @property
    def endpoint(self) -> Endpoint | None:
        if self._running is not None:
            return self._running[1]
        return super().endpoint if self.phase not in (Phase.FAILED, Phase.GIVEN_UP) else None

    def start(self) -> None:
        """Launch it and keep it running."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it for good: politely, then, after `EXIT_TIMEOUT_S`, by force."""
        tasks = [task for task in (self._drainer, self._keeper) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def release(self) -> None:
        """No longer keep it running, and let it run."""
        self._released = True
        await self.stop()

    def restart(self, drain_timeout_s: float) -> None:
        """Replace it once its sequences are done, or after so many seconds; launch one that was given up.

        Does nothing when a restart is under way.
        """
        if self.phase is Phase.GIVEN_UP:
            self._asked_for.set()
        elif self._handle is not None and self.phase not in (Phase.DRAINING, Phase.FAILED):
            self._proven = True
            self.transition(Phase.DRAINING, RESTART)
            self._drainer = asyncio.create_task(self._drain(drain_timeout_s))

    def retire(self, on_end: Callable[[RunnerProcess], None]) -> None:
        """Take no new sequences and, once those it has are done, end for good; `on_end` is called then."""
        self.retiring = True
        if self._drainer is not None:
            self._drainer.cancel()
        if self.phase not in (Phase.FAILED, Phase.GIVEN_UP):
            self.transition(Phase.DRAINING, NOT_NEEDED)
        self._drainer = asyncio.create_task(self._retire(on_end))

    def revive(self) -> bool:
        """Take `retire` back. Returns whether it was in time: it has loaded, and is not ended yet."""
        if not self.retiring or self._ending or self.phase is not Phase.DRAINING or self.info is None:
            return False
        if self._drainer is not None:
            self._drainer.cancel()
        self.retiring = False
        self.transition(Phase.READY)
        return True

    def report_silence(self, observer: str, reason: str, seconds: float) -> None:
        """`observer` waits for a result since so many seconds; an empty reason: not any more."""
        self._silences.pop(observer, None)
        if reason:
            self._silences[observer] = reason
        if seconds > self._stall_timeout:
            self._fail(Failed(reason, final=False), kill=True)
            return
        seen = next(iter(self._silences.values()), "")
        if seen and self.phase in (Phase.READY, Phase.UNRESPONSIVE):
            self.transition(Phase.UNRESPONSIVE, seen)
        elif not seen and self.phase is Phase.UNRESPONSIVE:
            self.transition(Phase.READY)

    def forget_observer(self, observer: str) -> None:
        """An observer is gone, and what it said no longer counts."""
        if observer in self._silences:
            self.report_silence(observer, "", 0.0)

    def _hear(self, connection: RunnerConnection, message: Loading | Ready | Failed) -> None:
        match message:
            case Failed():
                self._fail(message)
            case Loading(fraction, what) if self.phase in (Phase.STARTING, Phase.LOADING):
                self.loaded = fraction
                self.transition(Phase.LOADING, what)
            case Ready(info):
                self.info = info
                self._worked = True
                self._ready_since = min(self._ready_since, time.monotonic())
                if self.phase in (Phase.STARTING, Phase.LOADING):
                    self.transition(Phase.READY)

    def _closed(self, connection: RunnerConnection) -> None:
        """`_until_failed` waits for it: the exit status says more."""

    def _silent(self, seconds: float) -> None:
        self.report_silence(OWN, self._silence(seconds) if seconds else "", seconds)

    def _fail(self, failure: Failed, *, kill: bool = False) -> None:
        """Leave service, with the first failure as the reason. `kill`: the process will not end by itself."""
        if self.phase is Phase.FAILED:
            return
        self._failure = failure
        self._failed.set()
        self.transition(Phase.FAILED, failure.message)
        if kill and self._handle is not None:
            self._handle.kill()

    async def _drain(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.sequences and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and not in a hurry
            await asyncio.sleep(DRAIN_POLL_S)
        self._fail(Failed("it was restarted on request", final=False), kill=True)

    async def _retire(self, on_end: Callable[[RunnerProcess], None]) -> None:
        idle_since = time.monotonic()
        while self.phase is Phase.DRAINING and time.monotonic() - idle_since < SETTLED_S:
            await asyncio.sleep(DRAIN_POLL_S)
            if self.sequences:
                idle_since = time.monotonic()
        self._ending = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        on_end(self)

    async def _keep(self) -> None:
        while (ended := await keep_running(self._launch, on_failure=self._log_failure)) is not None:
            log.error(
                "runner %d is given up: %s; trying again in %g s",
                self.index,
                ended.reason,
                self._retry_interval,
            )
            self._asked_for.clear()
            self.transition(Phase.GIVEN_UP, ended.reason)
            await _wait(self._asked_for.wait(), self._retry_interval)

    def _log_failure(self, ended: Ended, delay: float) -> None:
        when = f"in {delay:g} s" if delay else "now"
        log.error("runner %d failed: %s; starting it again %s", self.index, ended.reason, when)

    async def _launch(self) -> Ended:
        """One life of the process, from its launch to its end."""
        self._reset()
        self.launches += 1
        self.transition(Phase.STARTING)
        refused = False
        try:
            if self._running is not None:
                get_handle, endpoint = self._running
                handle = self._handle = await get_handle()
            else:
                identity = new_identity() if self._launcher.encrypted else ""
                spec = msgspec.structs.replace(self._spec, secret=new_secret(), identity=identity)
                handle = self._handle = await self._launcher.start(spec)
                endpoint = Endpoint(handle.address, spec.secret, spec.identity)
            refuse_plain_text(parse_address(endpoint.address), endpoint.identity)
        except ValueError as error:
            await self._discard()
            self._fail(Failed(f"it was refused: {error}", final=True))
        except OSError as error:
            refused, self._running = True, None
            self._fail(Failed(f"it could not be started: {error}", final=False))
        else:
            await self._follow(handle, endpoint)
        assert self._failure is not None
        return Ended(
            self._failure.message,
            healthy=self._proven,
            final=self._failure.final,
            # Something refused for now, e.g. descriptors, says nothing of a runner that worked.
            started=self.info is not None or (refused and self._worked),
        )

    async def _discard(self) -> None:
        """End a process at once that was started and must not be used."""
        handle, self._handle, self._running = self._handle, None, None
        if handle is not None:
            handle.kill()
            await handle.wait()
            await handle.cleared(EXIT_TIMEOUT_S)

    def _reset(self) -> None:
        """Forget the previous launch."""
        self._failure, self.info, self.loaded, self._proven = None, None, 0.0, False
        self._ready_since = math.inf
        self._failed.clear()
        self._silences.clear()

    async def _follow(self, handle: RunnerHandle, endpoint: Endpoint) -> None:
        """Follow a launched process until it has failed and ended; when cancelled, end it."""
        connection = self.connect(endpoint)
        self._running = None
        late = asyncio.get_running_loop().call_later(self._load_timeout, self._check_loaded)
        exited, lost = asyncio.create_task(handle.wait()), asyncio.create_task(handle.lost())
        events = {
            exited,
            lost,
            *(asyncio.create_task(one.wait()) for one in (self._failed, connection.ended)),
        }
        try:
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if exited.done() and connection.connected:  # its last message may still be in the socket
                await _wait(connection.ended.wait(), LAST_MESSAGE_TIMEOUT_S)
            elif not self._failed.is_set():  # a broken connection or a lost rank: its end may say more
                await _wait(asyncio.shield(exited), LAST_MESSAGE_TIMEOUT_S)
            self._proven |= time.monotonic() - self._ready_since > STABLE_AFTER_S
            self._fail(_how_it_ended(exited, lost), kill=lost.done())
            self.disconnect(RUNNER_LOST, lost=True)  # before the process ends: its sequences move on now
            await self._end(handle, exited)
        except asyncio.CancelledError:
            if not self._released:
                await self._end(handle, exited)
            raise
        finally:
            late.cancel()
            for task in events:
                task.cancel()
            self._handle = None
            self.disconnect(SHUTTING_DOWN, lost=False)

    async def _end(self, handle: RunnerHandle, exited: asyncio.Task[int]) -> None:
        """End the process: politely, then, after `EXIT_TIMEOUT_S`, by force, and all that it started."""
        if not exited.done():
            handle.terminate()
            await _wait(asyncio.shield(exited), EXIT_TIMEOUT_S)
            if not exited.done():
                log.warning("runner %d did not end within %g s; killing it", self.index, EXIT_TIMEOUT_S)
        handle.kill()
        await exited
        await handle.cleared(EXIT_TIMEOUT_S)

    def _check_loaded(self) -> None:
        if self.phase in (Phase.STARTING, Phase.LOADING):
            self._fail(Failed(f"it did not load within {self._load_timeout:g} s", final=False))


async def _wait(event: Awaitable[object], timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):  # not wait_for, which may swallow a cancellation (Python 3.11)
        async with asyncio.timeout(timeout_s):
            await event


def _how_it_ended(exited: asyncio.Task[int], lost: asyncio.Task[str]) -> Failed:
    if lost.done():
        return Failed(lost.result(), final=False)
    if not exited.done():
        return Failed("it closed its connection", final=False)
    status = exited.result()
    how = f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"
    return Failed(how, final=status == CANNOT_START)
