"""The MPI ranks beneath a process, seen through /proc, and the first of them that dies.

A dead rank leaves those that wait for it silent, and Open MPI's daemon alive. The process itself cannot
look: a TensorRT-LLM executor holds its GIL while it loads. So its parent does, from a thread.

A launcher is `mpirun`, or the daemon (`orted`) that MPI_Comm_spawn starts; a rank is a child of a launcher
that has a rank of its own in its environment. Other processes may come and go: helpers of the engine, and the
agents with which mpirun reaches other machines. Ranks of other machines are not seen: their daemon tells
mpirun, which then ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from trtllm_openai.processes.mpi import RANK_VARIABLES

log = logging.getLogger(__name__)

POLL_S = 0.25
CLEARED_POLL_S = 0.02
DAEMON = "orted"
LAUNCHERS = frozenset({DAEMON, "prted", "prte", "prterun", "mpirun", "mpiexec", "orterun", "hydra_pmi_proxy"})
"""Names of processes whose children may be ranks."""
OF_A_RANK = (*RANK_VARIABLES, "PMIX_NAMESPACE")
DAEMON_EXIT_TIMEOUT_S = 1.0
ENDED_BY_LAUNCHER = f"was killed by signal {int(signal.SIGTERM)}"
SETTLED_S = 1.0
"""Age at which a daemon has started all that it needs for itself."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process at the moment of the look."""

    pid: int
    name: str
    started: int
    """Clock ticks since boot: with `pid` it identifies the process."""
    ended: bool
    status: int
    """Wait status of a process that ended and was not reaped yet; 0 otherwise."""
    reaped: int
    """Page faults of the children that it has reaped: grows with each."""


def read_process(pid: int) -> Process | None:
    """The process, None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(") ")
    fields = rest.split()
    return Process(pid, name, int(fields[19]), fields[0] in "ZX", int(fields[49]), int(fields[8]))


class RankWatch:
    """Watches the ranks beneath the process `root`, as long as that lives.

    `launcher`: `root` itself is what starts the ranks (an mpi_command); otherwise a descendant is.
    """

    def __init__(self, root: int, *, launcher: bool) -> None:
        self._root = read_process(root)
        self._launcher = launcher
        self._launchers: dict[int, Process] = {}
        self._ranks: dict[int, tuple[Process, str]] = {}
        self._settled: dict[int, int] = {}  # launcher -> its `reaped` when it was first seen settled

    @property
    def ranks(self) -> list[Process]:
        """Those that were seen so far, each as it was then."""
        return [rank for rank, _ in list(self._ranks.values())]

    async def lost(self) -> str:
        """Wait until a rank dies. Returns which one, and how as far as that is known."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[str] = loop.create_future()
        stop = threading.Event()

        def watch() -> None:
            ends: dict[int, int] = {}
            try:
                while not stop.is_set() and self._root is not None and _lives(self._root):
                    if reason := self.look():
                        with contextlib.suppress(RuntimeError):  # the loop is closed
                            loop.call_soon_threadsafe(_resolve, found, reason)
                        return
                    self._sleep(ends)
            except FileNotFoundError as error:
                log.warning("dead ranks are noticed by stall_timeout alone: %s", error)
            finally:
                for descriptor in ends.values():
                    os.close(descriptor)

        # Not the loop's own executor: a read of /proc can hang with the process that it is about.
        threading.Thread(target=watch, name="rank watch", daemon=True).start()
        try:
            return await found
        finally:
            stop.set()

    def look(self) -> str:
        """Look once. Returns how a rank was lost; empty if none was, or `root` has ended, which says more.

        Raises `FileNotFoundError` where the kernel does not list the children of a process.
        """
        reason = self._first_loss()
        if self._root is None or not _lives(self._root):
            return ""
        if reason:
            return reason
        if self._launcher or not self._launchers:
            self._descend(self._root, self._launcher)
        else:  # the engine's own process has many threads, and its helpers do not matter
            for launcher in list(self._launchers.values()):
                self._descend(launcher, True)
        return ""

    def kill(self) -> None:
        """Kill the ranks. Their daemon ends, and removes its files, when `root` has ended; see `cleared`."""
        for rank in self.ranks:
            _kill(rank)

    async def cleared(self, timeout_s: float) -> None:
        """After `kill`, wait until all ranks have ended, for so many seconds: a driver takes its time.

        Launchers, which remove their files, have `DAEMON_EXIT_TIMEOUT_S` of it before they are killed too.
        """
        started = time.monotonic()
        while left := [one for one in (*self._launchers.values(), *self.ranks) if _lives(one)]:
            waited = time.monotonic() - started
            if waited > min(timeout_s, DAEMON_EXIT_TIMEOUT_S):
                for launcher in [one for one in left if one.pid in self._launchers]:
                    with contextlib.suppress(FileNotFoundError):
                        self._descend(launcher, True)  # it may have started more since the last look
                    _kill(launcher)
                self.kill()
            if waited > timeout_s:
                return
            await asyncio.sleep(CLEARED_POLL_S)

    def _sleep(self, ends: dict[int, int]) -> None:
        """Sleep for `POLL_S`, or until a rank ends: its launcher ends the others within milliseconds.

        `ends`: a descriptor for each rank, which becomes readable then; new ones are added.
        """
        poller = select.poll()
        for rank in self.ranks:
            with contextlib.suppress(OSError):  # it has ended, or the kernel has no such descriptors
                if rank.pid not in ends:
                    ends[rank.pid] = os.pidfd_open(rank.pid)
                poller.register(ends[rank.pid], select.POLLIN)
        poller.poll(POLL_S * 1000)

    def _first_loss(self) -> str:
        lost = [
            f"rank {number} ({rank.name}, process {rank.pid}) {_how(rank)}"
            for rank, number in self._ranks.values()
            if not _lives(rank)
        ]
        if lost:  # a launcher ends the others, with SIGTERM
            return min(lost, key=lambda reason: reason.endswith(ENDED_BY_LAUNCHER))
        for launcher in list(self._launchers.values()):
            if reason := self._loss_of(launcher):
                return reason
        return ""

    def _loss_of(self, launcher: Process) -> str:
        """Of a launcher that has ended, or has lost a rank between two looks.

        What is younger than `SETTLED_S` may be a child of a launcher that has not become what it will be.
        """
        now = read_process(launcher.pid)
        if now is None or now.ended or now.name not in LAUNCHERS:
            del self._launchers[launcher.pid]
            if launcher.pid in self._settled:
                return f"the launcher of the ranks ({launcher.name}, process {launcher.pid}) {_how(launcher)}"
        elif _age_s(now) > SETTLED_S:
            before = self._settled.setdefault(now.pid, now.reaped)
            if not self._ranks and now.name == DAEMON and now.reaped > before:
                return f"a rank ended as soon as {now.name} (process {now.pid}) had started it"
        return ""

    def _descend(self, parent: Process, launcher: bool) -> None:
        """Find the launchers and ranks beneath `parent`; those beneath a rank are its own affair."""
        own: dict[str, str] | None = None
        for pid in _children(parent.pid):
            process = None if pid in self._ranks else read_process(pid)
            if process is None or process.ended:
                continue
            if launcher:
                own = _rank_variables(parent.pid) if own is None else own
                found = _rank_variables(pid)
                if found and found != own:
                    number = next((found[name] for name in RANK_VARIABLES if name in found), "?")
                    self._ranks[pid] = process, number
                    self._launchers.pop(pid, None)  # it was seen before it became what it is
                    continue
            named = process.name in LAUNCHERS
            if named:
                self._launchers[pid] = process
            self._descend(process, named)


def _resolve(found: asyncio.Future[str], reason: str) -> None:
    if not found.done():
        found.set_result(reason)


def _lives(process: Process) -> bool:
    now = read_process(process.pid)
    return now is not None and now.started == process.started and not now.ended


def _age_s(process: Process) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / os.sysconf("SC_CLK_TCK")


def _kill(process: Process) -> None:
    if _lives(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)


def _how(process: Process) -> str:
    """How it ended. Only its parent knows for sure; here it is known until that has asked."""
    now = read_process(process.pid)
    if now is None or now.started != process.started or not now.ended or not now.status:
        return "ended"
    number = os.waitstatus_to_exitcode(now.status)
    return f"was killed by signal {-number}" if number < 0 else f"ended with status {number}"


def _children(pid: int) -> list[int]:
    """Its children, of all of its threads. Raises `FileNotFoundError` on a kernel that does not list them."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended
        return found
    for thread in threads:
        path = Path(f"/proc/{pid}/task/{thread}/children")
        try:
            found += map(int, path.read_text().split())
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if path.parent.exists():
                raise
    return found


def _rank_variables(pid: int) -> dict[str, str]:
    """The variables that place the process among ranks; empty if they cannot be read."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (one.decode(errors="replace").partition("=") for one in variables)
    return {name: value for name, _, value in pairs if name in OF_A_RANK}
