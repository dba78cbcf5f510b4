"""A process that runs jobs which may never end, each in a bounded fork of itself.

    python -m trtllm_openai.processes.fork_server MODULE FD

* **What is forked**: this process, after `MODULE.load(setup)` has loaded what all jobs need. `load` returns
  the work, a function from a job's body to an answer of at most `MAX_ANSWER_BYTES`. It must start no
  threads: a fork has only one. Nothing that a job does outlives its fork.
* **Bounds** (`Bounds`), set by the kernel in each fork: CPU time, memory beyond what this process has
  anyway, and stack. Time that a job sleeps is not bounded. When the machine's memory is short, forks are
  killed first.
* **Order**: at most `Bounds.processes` forks run at a time. A job that exceeds the first of `Bounds.rounds`
  shares of its time is begun again in the next round; jobs in an earlier round go first, then those that
  came first. So hard jobs do not hold up easy ones.
* **Reports**: an `Outcome` for each job that was not dropped. It says which bound ended the fork: `time` if
  it was the timer after the last round, `memory` for everything else that ends a fork without an answer
  (memory, stack, a crash). An exception of the work that is neither is `error`, with its text.

FD is a stream socket (`processes.framing`). `Begin` comes first; an empty message says that jobs can be
run. Then `Job` and `Drop` come, and outcomes are sent. The process, and its forks, end with the socket.
`processes.fork_client` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import importlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import msgspec

from trtllm_openai.processes.framing import FramedSocket, read_framed

Work = Callable[[bytes], bytes]
MAX_ANSWER_BYTES = 1 << 16
NICE = 5
"""Forks give way to the process that waits for them."""
OUT_OF_MEMORY_SCORE = "1000"
"""The kernel's out-of-memory killer takes a fork before anything else (oom_score_adj)."""
PR_SET_PDEATHSIG = 1
SEND_TIMEOUT_S = 1.0


class Bounds(msgspec.Struct, array_like=True, frozen=True):
    """`cpu_s`: seconds of CPU time of a job in its last round; `rounds`: ascending shares of it, the last
    one 1.

    `memory_bytes`: address space beyond that of the process. `stack_bytes`: less than any thread has that
    will do the same work, so that what fits here fits there. `processes`: forks at a time.
    """

    cpu_s: float
    memory_bytes: int
    processes: int
    rounds: tuple[float, ...] = (0.05, 0.25, 1.0)
    stack_bytes: int = 3 * 2**19


class Begin(msgspec.Struct, tag="begin", array_like=True):
    """The first message. `setup` is for `MODULE.load`."""

    bounds: Bounds
    setup: bytes


class Job(msgspec.Struct, tag="job", array_like=True):
    """Run this and report its outcome by its number."""

    number: int
    body: bytes


class Drop(msgspec.Struct, tag="drop", array_like=True):
    """Nobody waits for this job any more: end it, without an outcome."""

    number: int


class Outcome(msgspec.Struct, array_like=True):
    """`answer` of a job that ended by itself, or what `ended` it. `cpu_s`: seconds of the last round's
    fork.
    """

    number: int
    answer: bytes = b""
    ended: Literal["", "time", "memory", "error"] = ""
    cpu_s: float = 0.0


encode = msgspec.msgpack.Encoder().encode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_begin = msgspec.msgpack.Decoder(Begin).decode
_decode = msgspec.msgpack.Decoder(Job | Drop).decode


@dataclass(order=True)
class _Running:
    """A job that waits or runs."""

    round: int
    number: int
    body: bytes = field(compare=False)
    pid: int = field(default=0, compare=False)


class ForkServer:
    """Serves one socket until the other end closes it."""

    def __init__(self, end: FramedSocket, bounds: Bounds, work: Work) -> None:
        self._end = end
        self._bounds = bounds
        self._work = work
        self._libc = ctypes.CDLL(None)
        self._waiting: list[_Running] = []
        self._running: dict[int, _Running] = {}  # by the pipe on which the fork reports
        self._selector = selectors.PollSelector()
        self._selector.register(end, selectors.EVENT_READ)

    def run(self) -> None:
        """Say that jobs can be run, and run them."""
        self._end.send(b"")
        while not self._end.gone:
            while self._waiting and len(self._running) < self._bounds.processes:
                self._fork(heapq.heappop(self._waiting))
            for key, _ in self._selector.select():
                if key.fileobj is self._end:
                    while bodies := self._end.receive():
                        self._take(bodies)
                elif key.fd in self._running:
                    self._report(key.fd)
        for job in self._running.values():
            os.kill(job.pid, signal.SIGKILL)

    def _take(self, bodies: list[bytes]) -> None:
        for body in bodies:
            match _decode(body):
                case Job(number, job):
                    heapq.heappush(self._waiting, _Running(0, number, job))
                case Drop(number):
                    self._drop(number)

    def _drop(self, number: int) -> None:
        self._waiting = [job for job in self._waiting if job.number != number]
        heapq.heapify(self._waiting)
        for pipe, job in list(self._running.items()):
            if job.number == number:
                os.kill(job.pid, signal.SIGKILL)
                self._forget(pipe)

    def _fork(self, job: _Running) -> None:
        ours, theirs = os.pipe()
        job.pid = os.fork()
        if not job.pid:
            self._do(job, theirs)
        os.close(theirs)
        self._running[ours] = job
        self._selector.register(ours, selectors.EVENT_READ)

    def _do(self, job: _Running, pipe: int) -> NoReturn:
        """In the fork: report and end."""
        try:
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(self._end.fileno())  # or the other end would not see that this process ended
            self._bound(self._bounds.rounds[job.round] * self._bounds.cpu_s)
            os.write(pipe, encode(self._outcome(job)))
        finally:
            os._exit(0)

    def _bound(self, cpu_s: float) -> None:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OUT_OF_MEMORY_SCORE)
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize() + self._bounds.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        stack = (self._bounds.stack_bytes, resource.getrlimit(resource.RLIMIT_STACK)[1])
        resource.setrlimit(resource.RLIMIT_STACK, stack)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a library says when it ends
        signal.setitimer(signal.ITIMER_PROF, cpu_s)

    def _outcome(self, job: _Running) -> Outcome:
        began = time.process_time()
        try:
            answer = self._work(job.body)
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of {len(answer)} bytes")
        except (MemoryError, RecursionError):
            return Outcome(job.number, b"", "memory", time.process_time() - began)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".encode(errors="replace")[:MAX_ANSWER_BYTES]
            return Outcome(job.number, said, "error", time.process_time() - began)
        return Outcome(job.number, answer, "", time.process_time() - began)

    def _report(self, pipe: int) -> None:
        body = b""
        while piece := os.read(pipe, MAX_ANSWER_BYTES):
            body += piece
        job, status = self._forget(pipe)
        late = status == -signal.SIGPROF
        if status == 0 and body:
            self._end.send(body)
        elif late and job.round + 1 < len(self._bounds.rounds):
            heapq.heappush(self._waiting, _Running(job.round + 1, job.number, job.body))
        else:
            spent = self._bounds.rounds[job.round] * self._bounds.cpu_s
            self._end.send(encode(Outcome(job.number, b"", "time" if late else "memory", spent)))
        self._end.drain(SEND_TIMEOUT_S)

    def _forget(self, pipe: int) -> tuple[_Running, int]:
        """The job, and its fork's exit status: -N if signal N ended it."""
        job = self._running.pop(pipe)
        self._selector.unregister(pipe)
        os.close(pipe)
        _, status = os.waitpid(job.pid, 0)
        return job, os.waitstatus_to_exitcode(status)


def main() -> None:
    """Serve the socket whose descriptor is the second argument, with the work of the module named by the
    first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the other end decides
    os.nice(NICE)
    end = socket.socket(fileno=int(sys.argv[2]))
    end.setblocking(True)
    try:
        begin = _decode_begin(read_framed(end.recv))
    except EOFError:
        return
    load: Callable[[bytes], Work] = importlib.import_module(sys.argv[1]).load
    server = ForkServer(FramedSocket(end), begin.bounds, load(begin.setup))
    gc.freeze()  # forks share the pages of what is there now
    server.run()


if __name__ == "__main__":
    main()
