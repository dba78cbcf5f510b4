"""Compiles guides beside the engine: first on trial in another process (`guide_trial`), then in a thread.

A guide that passed its trial is known to compile here within its bounds. Outcomes are remembered, so that the
same guide is tried once. Guides that took long wait in a queue of their own.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b

from trtllm_openai.engines.torch import guide_trial
from trtllm_openai.engines.torch.guide_trial import Drop, Setup, Trial, Verdict
from trtllm_openai.engines.torch.guides import GuideLimits, GuideMatcher, compile_guide, make_tokenizer
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.framing import framed, read_framed

log = logging.getLogger(__name__)

REMEMBERED = 1000
"""Verdicts that are kept."""
QUICK_S = 0.2
"""CPU seconds of compilation; guides that take longer wait for each other only."""


class GuideCompiler:
    """Compiles guides to matchers. Used by one thread."""

    def __init__(
        self, vocabulary: Sequence[bytes], vocab_size: int, end_ids: Sequence[int], limits: GuideLimits
    ) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones. `vocab_size`: width of logits."""
        self._setup = Setup(list(vocabulary), vocab_size, tuple(end_ids), limits)
        self._limits = limits
        self._quick, self._slow = (ThreadPoolExecutor(1, f"guide-{name}") for name in ("quick", "slow"))
        # Building the tokenizer takes half a second; a thread keeps it from delaying startup.
        self._tokenizer = self._quick.submit(make_tokenizer, vocabulary, vocab_size, end_ids)
        self._lock = threading.Lock()  # what follows is shared with the thread that reads verdicts
        self._court: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: dict[int, tuple[Guide, Future[GuideMatcher]]] = {}
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._count = 0
        self._closed = False
        self.compiled = 0
        """Guides that were compiled."""
        self.refused = 0
        """Guides that were refused."""
        self.seconds = 0.0
        """CPU seconds that trials took."""

    def compile(self, guide: Guide) -> Future[GuideMatcher]:
        """Return a future matcher. The future raises `InvalidRequest` if the guide cannot be used.

        Cancelling it ends the compilation.
        """
        future: Future[GuideMatcher] = Future()
        with self._lock:
            self._count += 1
            number = self._count
            known = self._known.get(_digest(guide))
            if known is None:
                self._pending[number] = guide, future
                self._send(Trial(number, guide))
        if known is not None:
            self._judge(guide, future, known)
        else:
            future.add_done_callback(lambda done: self._drop(number) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the process of trials, and forget queued compilations without waiting for running ones."""
        with self._lock:
            self._closed = True
            if self._court is not None:
                self._court.shutdown(socket.SHUT_RDWR)
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)

    def _send(self, message: Trial | Drop) -> None:
        """Send to the process of trials, which is started when it is first needed."""
        if self._court is None and not self._closed:
            self._court, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    module(guide_trial.__name__, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=child_environment(),
                )
            arguments = (self._court, self._process)
            threading.Thread(target=self._hear, args=arguments, daemon=True, name="guide-verdicts").start()
            self._court.sendall(framed(guide_trial.encode(self._setup)))
        if self._court is not None:
            try:
                self._court.sendall(framed(guide_trial.encode(message)))
            except OSError:
                log.warning("the process that tries guides is gone")  # `_hear` notices

    def _hear(self, court: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Handle verdicts until the process of trials is gone; another is then started when it is needed."""
        with court:
            try:
                while True:
                    self._decide(guide_trial.decode_verdict(read_framed(court.recv)))
            except (EOFError, OSError):
                with self._lock:
                    self._court = None
                    lost, self._pending = self._pending, {}
        process.kill()
        status = process.wait()
        for _, future in lost.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError(f"the process that tries guides ended ({status})"))

    def _decide(self, verdict: Verdict) -> None:
        with self._lock:
            guide, future = self._pending.pop(verdict.number, (None, None))
            self.seconds += verdict.seconds
            if guide is not None:
                self._known[_digest(guide)] = verdict
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        if guide is not None and future is not None:
            self._judge(guide, future, verdict)

    def _judge(self, guide: Guide, future: Future[GuideMatcher], verdict: Verdict) -> None:
        if verdict.refusal:
            self.refused += 1
            if future.set_running_or_notify_cancel():
                future.set_exception(
                    InvalidRequest(verdict.refusal, verdict.param, verdict.code or "invalid_value")
                )
            return
        threads = self._quick if verdict.seconds < QUICK_S else self._slow
        if not self._closed:
            threads.submit(self._compile, guide, future)

    def _compile(self, guide: Guide, future: Future[GuideMatcher]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            arguments = self._tokenizer.result(), guide, self._setup.end_ids, self._limits.max_mask_ms
            future.set_result(compile_guide(*arguments))
            self.compiled += 1
        except Exception as error:
            future.set_exception(error)

    def _drop(self, number: int) -> None:
        with self._lock:
            if self._pending.pop(number, None) is not None:
                self._send(Drop(number))


def _digest(guide: Guide) -> bytes:
    return blake2b(guide_trial.encode(guide), digest_size=16).digest()
