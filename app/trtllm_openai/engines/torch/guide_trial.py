"""A process that compiles guides on trial, each in a forked child with bounds on its CPU time and memory.

llguidance bounds most of its work, but not all: some guides compile for minutes, take all memory or overflow
the stack, which would end the engine's process. A child can be ended. It gets `ROUNDS` of the time limit one
after the other, and guides in an earlier round go first, so that hard guides do not hold up easy ones.

    python -m trtllm_openai.engines.torch.guide_trial FD

FD is an inherited stream socket. The first message on it is a `Setup`; then come `Trial`s and `Drop`s, and a
`Verdict` is sent for each trial that was not dropped.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from trtllm_openai.engines.torch.guides import GuideLimits, compile_guide, make_tokenizer
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.processes.framing import FramedSocket

ROUNDS = (0.05, 0.25, 1.0)
"""Shares of the time limit after which a compilation is ended; after the last one the guide is refused."""
STACK_BYTES = 3 * 2**19
"""Less stack than any thread of the engine's process has: what fits here fits there."""
NICE = 5
"""Trials give way to the engine."""


class Setup(msgspec.Struct, tag="setup", array_like=True):
    """See `GuideCompiler`."""

    vocabulary: list[bytes]
    vocab_size: int
    end_ids: tuple[int, ...]
    limits: GuideLimits


class Trial(msgspec.Struct, tag="trial", array_like=True):
    """A guide to compile."""

    number: int
    guide: Guide


class Drop(msgspec.Struct, tag="drop", array_like=True):
    """Nobody waits for this trial any more."""

    number: int


class Verdict(msgspec.Struct, array_like=True):
    """`refusal`: the message of an `InvalidRequest`, with `param` and `code`; empty if the guide compiles."""

    number: int
    seconds: float = 0.0
    refusal: str = ""
    param: str | None = None
    code: str = ""


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Setup | Trial | Drop).decode
decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


@dataclass(order=True)
class Job:
    """A guide that waits or compiles."""

    round: int
    number: int
    guide: Guide = field(compare=False)
    pid: int = field(default=0, compare=False)


class Trials:
    """Runs at most `limits.processes` children at a time, until the other end closes the socket."""

    def __init__(self, end: FramedSocket, limits: GuideLimits, compile_it: Callable[[Guide], object]) -> None:
        """`compile_it` raises `InvalidRequest` for a guide that cannot be used."""
        self._end = end
        self._limits = limits
        self._compile = compile_it
        self._waiting: list[Job] = []
        self._running: dict[int, Job] = {}  # by the pipe on which the child reports
        self._selector = selectors.PollSelector()
        self._selector.register(end, selectors.EVENT_READ)

    def run(self) -> None:
        while not self._end.gone:
            while self._waiting and len(self._running) < self._limits.processes:
                self._fork(heapq.heappop(self._waiting))
            for key, _ in self._selector.select():
                if key.fileobj is self._end:
                    while bodies := self._end.receive():
                        self.admit(bodies)
                elif key.fd in self._running:
                    self._ended(key.fd)
        for job in self._running.values():
            os.kill(job.pid, signal.SIGKILL)

    def admit(self, bodies: list[bytes]) -> None:
        """Take messages that have arrived."""
        for body in bodies:
            match decode(body):
                case Trial(number, guide):
                    heapq.heappush(self._waiting, Job(0, number, guide))
                case Drop(number):
                    self._drop(number)

    def _drop(self, number: int) -> None:
        self._waiting = [job for job in self._waiting if job.number != number]
        heapq.heapify(self._waiting)
        for pipe, job in list(self._running.items()):
            if job.number == number:
                os.kill(job.pid, signal.SIGKILL)
                self._forget(pipe)

    def _fork(self, job: Job) -> None:
        ours, theirs = os.pipe()
        job.pid = os.fork()
        if not job.pid:
            with contextlib.suppress(BaseException):
                self._bound(ROUNDS[job.round] * self._limits.compile_timeout)
                os.write(theirs, encode(self._try(job)))
            os._exit(0)
        os.close(theirs)
        self._running[ours] = job
        self._selector.register(ours, selectors.EVENT_READ)

    def _bound(self, cpu_seconds: float) -> None:
        """Have the kernel end this process beyond its bounds."""
        pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115 - the process is about to end
        size = pages * resource.getpagesize() + self._limits.max_memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what Rust says when it ends
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def _try(self, job: Job) -> Verdict:
        began = time.process_time()
        try:
            self._compile(job.guide)
        except InvalidRequest as error:
            message, param = str(error)[:2000], error.param and error.param[:2000]
            return Verdict(job.number, time.process_time() - began, message, param, error.code)
        return Verdict(job.number, time.process_time() - began)

    def _ended(self, pipe: int) -> None:
        body = os.read(pipe, 1 << 16)
        job, status = self._forget(pipe)
        if body:
            self._end.send(body)
        elif status == -signal.SIGPROF and job.round + 1 < len(ROUNDS):
            heapq.heappush(self._waiting, Job(job.round + 1, job.number, job.guide))
        else:
            late = status == -signal.SIGPROF
            why = f"more than {self._limits.compile_timeout:g} s" if late else "too much memory or nesting"
            self._end.send(encode(self._refused(job, why)))
        self._end.drain(1.0)

    def _refused(self, job: Job, why: str) -> Verdict:
        kind, param = job.guide.kind.replace("_", " "), job.guide.param or None
        message = f"This {kind} cannot be used: it is too complex (it needs {why})."
        return Verdict(
            job.number, ROUNDS[job.round] * self._limits.compile_timeout, message, param, "invalid_value"
        )

    def _forget(self, pipe: int) -> tuple[Job, int]:
        job = self._running.pop(pipe)
        self._selector.unregister(pipe)
        os.close(pipe)
        _, status = os.waitpid(job.pid, 0)
        return job, os.waitstatus_to_exitcode(status)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    end = FramedSocket(socket.socket(fileno=int(sys.argv[1])))
    selector = selectors.PollSelector()
    selector.register(end, selectors.EVENT_READ)
    bodies: list[bytes] = []
    while not bodies and not end.gone:
        selector.select()
        bodies = end.receive()
    if not bodies:
        return
    setup = decode(bodies[0])
    assert isinstance(setup, Setup)
    tokenizer = make_tokenizer(setup.vocabulary, setup.vocab_size, setup.end_ids)
    gc.freeze()  # children share the pages of what is there now
    limits = setup.limits

    def compile_it(guide: Guide) -> object:
        return compile_guide(tokenizer, guide, setup.end_ids, limits.max_mask_ms)

    trials = Trials(end, limits, compile_it)
    trials.admit(bodies[1:])
    trials.run()


if __name__ == "__main__":
    main()
