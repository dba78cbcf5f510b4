"""Checks guides with XGrammar before their requests reach the executor.

TensorRT-LLM compiles a guide inside its batch loop, and one that XGrammar rejects ends every active request;
one that takes long stops them all. The check compiles the same guide with the same calls, in a process of its
own (`guide_compiler`) that ends a guide at `COMPILE_CPU_S` and `COMPILE_MEMORY_BYTES`, and keeps only whether
that succeeded. XGrammar is a pinned dependency of TensorRT-LLM, so the versions agree.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec

import msgspec

from trtllm_openai.engines.tensorrt_llm import guide_compiler
from trtllm_openai.engines.tensorrt_llm.guide_compiler import Cancel, Compile, Setup, Verdict
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.processes.framing import framed, read_framed

log = logging.getLogger(__name__)
COMPILE_CPU_S = 5
COMPILE_MEMORY_BYTES = 2**30
MAX_VERDICTS = 4096
"""Verdicts that are remembered: agents send the same schemas again and again."""
SETUP_TIMEOUT_S = 60
SEND_TIMEOUT_S = 1
"""A process that does not read must not hold the engine's loop."""
RESTART_PAUSE_S = 0.5

_encode = msgspec.msgpack.Encoder().encode
_decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


@dataclass(slots=True)
class _Check:
    """A guide that is being compiled, and everybody who waits for it."""

    number: int
    key: bytes
    guide: Guide
    waiting: list[tuple[Future[None], Guide]] = field(default_factory=list)


class GuideChecker:
    """Checks guides in a process that is started here, and again if it should end. Thread-safe."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        end_ids: Sequence[int],
        cpu_s: int = COMPILE_CPU_S,
        memory_bytes: int = COMPILE_MEMORY_BYTES,
    ) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits.

        Starts the process, which imports XGrammar and takes seconds to do it.
        """
        self._bounds = f"{cpu_s} s of CPU time or {memory_bytes >> 20} MiB"
        self._setup = framed(_encode(Setup(list(vocabulary), vocab_size, list(end_ids), cpu_s, memory_bytes)))
        self._lock = threading.Lock()
        self._checks: dict[int, _Check] = {}
        self._by_key: dict[bytes, _Check] = {}
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._numbers = 0
        self._closed = False
        self._process, self._socket = self._spawn()

    def wait_until_ready(self) -> None:
        """Wait for the process, so that no request does. Raises `ConfigError` when it did not start."""
        try:
            read_framed(self._socket.recv)
        except (EOFError, OSError):
            status = self._process.wait()
            self._socket.close()
            raise ConfigError(
                f"tensorrt_llm.guided_decoding: the process that checks guides ended with status {status}"
            ) from None
        threading.Thread(target=self._receive, name="guide-check", daemon=True).start()

    def check(self, guide: Guide) -> Future[None]:
        """Compile `guide`. The future raises `InvalidRequest` when XGrammar rejects it or a bound ends it.

        Cancelling the future ends the compilation, unless another request waits for the same guide.
        """
        future: Future[None] = Future()
        key = hashlib.blake2b(f"{guide.kind}\0{guide.text}".encode(), digest_size=16).digest()
        with self._lock:
            known = self._verdicts.get(key)
            if known is None:
                check = self._by_key.get(key)
                if check is None:
                    self._numbers += 1
                    check = self._by_key[key] = self._checks[self._numbers] = _Check(
                        self._numbers, key, guide
                    )
                    self._send(Compile(check.number, guide))
                check.waiting.append((future, guide))
            else:
                self._verdicts.move_to_end(key)
        if known is not None:
            self._resolve(future, guide, known)
        else:
            future.add_done_callback(lambda done: self._cancelled(key) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the process. Idempotent."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        mine, other = socket.socketpair()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with other:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {guide_compiler.__name__} import main; main()"],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
            )
        _bound_sends(mine, SETUP_TIMEOUT_S)
        try:
            mine.sendall(self._setup)
        except OSError:
            process.kill()  # noticed by who reads
        _bound_sends(mine, SEND_TIMEOUT_S)
        return process, mine

    def _send(self, message: Compile | Cancel) -> None:
        """With the lock held. What is lost because the process ended is sent again to the next one."""
        try:
            self._socket.sendall(framed(_encode(message)))
        except OSError:
            self._process.kill()

    def _receive(self) -> None:
        """The thread that reads verdicts, and replaces the process when it ended."""
        while True:
            try:
                body = read_framed(self._socket.recv)
            except (EOFError, OSError):
                if self._closed:
                    self._socket.close()
                    return
                self._replace()
                continue
            if body:
                self._settle(_decode_verdict(body))

    def _replace(self) -> None:
        self._process.kill()
        log.error(
            "the process that checks guides ended with status %s; starting it again", self._process.wait()
        )
        threading.Event().wait(RESTART_PAUSE_S)
        process, mine = self._spawn()
        with self._lock:
            self._socket.close()
            self._process, self._socket = process, mine
            for check in self._checks.values():
                self._send(Compile(check.number, check.guide))
        if self._closed:
            self._process.kill()

    def _settle(self, verdict: Verdict) -> None:
        with self._lock:
            check = self._checks.pop(verdict.number, None)
            if check is None:
                return
            del self._by_key[check.key]
            self._verdicts[check.key] = verdict
            if len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        for future, guide in check.waiting:
            self._resolve(future, guide, verdict)

    def _resolve(self, future: Future[None], guide: Guide, verdict: Verdict) -> None:
        if not future.set_running_or_notify_cancel():
            return
        why = verdict.error
        if verdict.exceeded:
            why = f"it is too complex, compiling it takes more than {self._bounds}"
        if why is None:
            future.set_result(None)
            return
        kind = guide.kind.replace("_", " ")
        future.set_exception(
            InvalidRequest(f"This {kind} cannot be used: {why.rstrip('.')}.", guide.param or None)
        )

    def _cancelled(self, key: bytes) -> None:
        with self._lock:
            check = self._by_key.get(key)
            if check is None or not all(future.cancelled() for future, _ in check.waiting):
                return
            del self._by_key[key], self._checks[check.number]
            self._send(Cancel(check.number))


def _bound_sends(end: socket.socket, timeout_s: int) -> None:
    """Let a blocking send fail after so long; a socket's own timeout would hold for its reader too."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout_s, 0))


def available() -> bool:
    """Whether XGrammar is installed. Logs a warning when it is not: guides then go unchecked."""
    if find_spec("xgrammar") is not None:
        return True
    log.warning(
        "xgrammar is not installed: guides reach TensorRT-LLM unchecked, and one that it cannot compile ends "
        "every active request"
    )
    return False
