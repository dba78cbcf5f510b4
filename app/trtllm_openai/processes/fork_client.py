"""Jobs that are run by a fork server (`processes.fork_server`), which is kept running for them.

The server is started by `start`, or with the first job. One that ends is replaced: at once, and with
exponential backoff if it ends again before it has reported anything. Jobs wait for a server that is
loading, and what was lost with one is run by the next; a job that is lost twice fails with `RuntimeError`.
How long to wait is the caller's decision. Thread-safe.
"""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count

from trtllm_openai.processes import fork_server
from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.fork_server import Begin, Bounds, Drop, Job, Outcome
from trtllm_openai.processes.framing import framed, read_framed
from trtllm_openai.processes.keep_running import BACKOFF
from trtllm_openai.processes.undecodable import UNDECODABLE, report

log = logging.getLogger(__name__)
ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
}
"""The server's environment: no threads of libraries, which would not survive a fork, and no GPU."""
MAX_LOSSES = 2
SEND_TIMEOUT_S = 1
"""Seconds after which a server that does not read is killed: whoever submits a job must not wait for it."""
SETUP_TIMEOUT_S = 60
EXIT_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Pending:
    job: Job
    future: Future[Outcome] = field(default_factory=Future)
    losses: int = 0


class ForkClient:
    """Owns the server's process, and the thread that reads from it."""

    def __init__(self, module_name: str, setup: Callable[[], bytes], bounds: Bounds, what: str) -> None:
        """`module_name`, `bounds`: see `fork_server`; `setup()` is called for each server that is started.

        `what` the process does, for messages: "checks guides".
        """
        self.what = what
        self.loaded = threading.Event()
        """Set while the server runs jobs."""
        self._module = module_name
        self._setup = setup
        self._bounds = bounds
        self._numbers = count(1)
        self._lock = threading.Lock()  # what follows is shared with the thread
        self._pending: dict[int, _Pending] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._failure: str | None = None  # of a server that ended while loading
        self._wanted = threading.Condition(self._lock)
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The server's process id while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin to start the server. Idempotent."""
        with self._lock:
            self._start()

    def wait_until_loaded(self) -> None:
        """Wait for the server that `start` starts. Raises `RuntimeError` if it ends while it loads."""
        with self._wanted:
            self._wanted.wait_for(lambda: self.loaded.is_set() or self._failure is not None or self._closed)
            if not self.loaded.is_set():
                raise RuntimeError(self._failure or f"the process that {self.what} was closed")

    def run(self, body: bytes) -> Future[Outcome]:
        """Run a job. Cancelling the future ends it; the future raises `RuntimeError` if it is lost or
        closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the process that {self.what} was closed")
            one = _Pending(Job(next(self._numbers), body))
            self._pending[one.job.number] = one
            self._start()
            self._wanted.notify_all()
            if self.loaded.is_set():
                self._send(one.job)
        one.future.add_done_callback(lambda done: self._drop(one.job.number) if done.cancelled() else None)
        return one.future

    def close(self) -> None:
        """End the server; jobs that are not done fail. Idempotent."""
        with self._lock:
            self._closed = True
            self._wanted.notify_all()
            if self._process is not None:
                self._process.kill()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        self._lose(MAX_LOSSES, "was closed")

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._keep, daemon=True, name="fork-client")
            self._thread.start()

    def _send(self, message: Job | Drop) -> None:
        """With the lock held. What is lost because the server ended is found by the thread."""
        assert self._socket is not None
        assert self._process is not None
        try:
            self._socket.sendall(framed(fork_server.encode(message)))
        except OSError:
            self._process.kill()

    def _drop(self, number: int) -> None:
        with self._lock:
            if self._pending.pop(number, None) is not None and self.loaded.is_set():
                self._send(Drop(number))

    def _keep(self) -> None:
        """The thread: one server after another."""
        failures = 0
        while True:
            reported, why = self._run_server()
            if self._closed:
                return
            failures = 1 if reported else failures + 1
            delay = BACKOFF.delay(failures - 1) if failures > 1 else 0.0
            log.error(
                "the process that %s %s; starting it again %s",
                self.what,
                why,
                f"in {delay:g} s" if delay else "now",
            )
            self._lose(1, why)
            with self._wanted:
                self._wanted.wait_for(lambda: self._closed, delay)
                if failures > 1:  # there is no hurry unless somebody waits
                    self._wanted.wait_for(lambda: self._closed or bool(self._pending))

    def _run_server(self) -> tuple[bool, str]:
        """One server from its start to its end: whether it reported any outcome, and how it ended."""
        reported = was_loaded = False
        try:
            process, mine = self._spawn()
        except OSError as error:
            why = f"could not be started: {error}"
        else:
            with mine:
                reported = self._follow(mine)
                with self._lock:
                    was_loaded = self.loaded.is_set()
                    self.loaded.clear()
                    self._socket = None
            try:  # what ends by itself has a status that says more
                status = process.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            why = f"ended with status {status}"
        with self._wanted:
            self._process = None
            if not was_loaded:
                self._failure = f"the process that {self.what} {why}"
            self._wanted.notify_all()
        return reported, why

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        mine, other = socket.socketpair()
        with other:
            process = subprocess.Popen(
                module(fork_server.__name__, self._module, str(other.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                env=child_environment(**ALONE),
            )
        with self._lock:
            self._process, self._socket = process, mine
            if self._closed:
                process.kill()
        return process, mine

    def _follow(self, end: socket.socket) -> bool:
        """Read from a server until it has ended. Returns whether it reported any outcome."""
        reported = False
        try:
            _bound_sends(end, SETUP_TIMEOUT_S)
            end.sendall(framed(fork_server.encode(Begin(self._bounds, self._setup()))))
            _bound_sends(end, SEND_TIMEOUT_S)
            read_framed(end.recv)
            with self._wanted:
                self.loaded.set()
                self._failure = None
                self._wanted.notify_all()
                for one in self._pending.values():
                    self._send(one.job)
            while True:
                body = read_framed(end.recv)
                self._settle(fork_server.decode_outcome(body))
                reported = True
        except (EOFError, OSError):
            return reported
        except UNDECODABLE as error:  # of an unknown job: what waits is run by the next server
            report(f"the process that {self.what}", body, error)
            return reported

    def _settle(self, outcome: Outcome) -> None:
        with self._lock:
            one = self._pending.pop(outcome.number, None)
        if one is None or not one.future.set_running_or_notify_cancel():
            return
        if outcome.ended == "error":
            said = outcome.answer.decode(errors="replace")
            one.future.set_exception(RuntimeError(f"the process that {self.what} failed: {said}"))
        else:
            one.future.set_result(outcome)

    def _lose(self, losses: int, why: str) -> None:
        """Count a loss for all jobs; those that were lost too often fail."""
        with self._lock:
            for one in self._pending.values():
                one.losses += losses
            lost = [one for one in self._pending.values() if one.losses >= MAX_LOSSES]
            for one in lost:
                del self._pending[one.job.number]
        for one in lost:
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(RuntimeError(f"the process that {self.what} {why}"))


def _bound_sends(end: socket.socket, timeout_s: int) -> None:
    """Let a blocking send fail after so long; a socket's own timeout would hold for its reader too."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout_s, 0))
