"""Checks guides with XGrammar before their requests reach TensorRT-LLM.

TensorRT-LLM compiles a guide inside its batch loop, and one that XGrammar rejects ends every active
request; one that takes long stops them all. The check compiles the same guide with the same calls
(`guide_compiler`), in a fork of another process that ends at `COMPILE_CPU_S` or `COMPILE_MEMORY_BYTES`
(`processes.fork_server`), and keeps only whether that succeeded. XGrammar is a pinned dependency of
TensorRT-LLM, so the versions agree.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from importlib.util import find_spec

from trtllm_openai.engines.tensorrt_llm import guide_compiler
from trtllm_openai.engines.tensorrt_llm.guide_compiler import ACCEPTED, Setup
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.processes.fork_client import ForkClient
from trtllm_openai.processes.fork_server import Bounds, Outcome

log = logging.getLogger(__name__)
COMPILE_CPU_S = 5.0
COMPILE_MEMORY_BYTES = 2**30
MAX_PROCESSES = 4
"""Guides that are compiled at the same time; further ones wait."""
MAX_VERDICTS = 4096
"""Verdicts that are remembered: agents send the same schemas again and again."""


@dataclass(slots=True)
class _Check:
    """A guide that is being compiled, and everybody who waits for it."""

    outcome: Future[Outcome]
    waiting: list[tuple[Future[None], Guide]] = field(default_factory=list)


class GuideChecker:
    """Checks guides in a process that is started here, and again if it should end. Thread-safe."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        end_ids: Sequence[int],
        cpu_s: float = COMPILE_CPU_S,
        memory_bytes: int = COMPILE_MEMORY_BYTES,
    ) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits.

        Starts the process, which imports XGrammar and takes seconds to do it.
        """
        self._bounds = f"{cpu_s:g} s of CPU time or {memory_bytes >> 20} MiB"
        setup = guide_compiler.encode(Setup(list(vocabulary), vocab_size, list(end_ids)))
        bounds = Bounds(cpu_s, memory_bytes, MAX_PROCESSES)
        self._compiler = ForkClient(guide_compiler.__name__, lambda: setup, bounds, "checks guides")
        self._lock = threading.Lock()
        self._checks: dict[bytes, _Check] = {}
        self._verdicts: OrderedDict[bytes, Outcome] = OrderedDict()
        self._compiler.start()

    @property
    def pid(self) -> int | None:
        """The process that compiles, while there is one."""
        return self._compiler.pid

    def wait_until_ready(self) -> None:
        """Wait for the process, so that no request does. Raises `ConfigError` when it did not start."""
        try:
            self._compiler.wait_until_loaded()
        except RuntimeError as error:
            self.close()
            raise ConfigError(f"tensorrt_llm.guided_decoding: {error}") from None

    def check(self, guide: Guide) -> Future[None]:
        """Compile `guide`. The future raises `InvalidRequest` when XGrammar rejects it or a bound ends it,
        and `RuntimeError` when the process fails on it.

        Cancelling the future ends the compilation, unless another request waits for the same guide.
        """
        future: Future[None] = Future()
        key = hashlib.blake2b(f"{guide.kind}\0{guide.text}".encode(), digest_size=16).digest()
        begun: Future[Outcome] | None = None
        with self._lock:
            known = self._verdicts.get(key)
            if known is not None:
                self._verdicts.move_to_end(key)
            else:
                check = self._checks.get(key)
                if check is None:
                    begun = self._compiler.run(guide_compiler.encode(guide))
                    check = self._checks[key] = _Check(begun)
                check.waiting.append((future, guide))
        if begun is not None:
            begun.add_done_callback(lambda done: self._settle(key, done))
        if known is not None:
            self._resolve(future, guide, known)
        else:
            future.add_done_callback(lambda done: self._cancelled(key) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the process. Idempotent."""
        self._compiler.close()

    def _settle(self, key: bytes, done: Future[Outcome]) -> None:
        """The guide was compiled, or the process failed on it, or nobody waits for it any more."""
        with self._lock:
            check = self._checks.get(key)
            if check is None or check.outcome is not done:
                return
            del self._checks[key]
            verdict: Outcome | Exception
            try:
                verdict = self._verdicts[key] = done.result()
            except (RuntimeError, CancelledError) as error:
                verdict = error
            if len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        for future, guide in check.waiting:
            self._resolve(future, guide, verdict)

    def _resolve(self, future: Future[None], guide: Guide, verdict: Outcome | Exception) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(verdict, Exception):
            future.set_exception(verdict)
            return
        if verdict.ended:
            why = f"it is too complex, compiling it takes more than {self._bounds}"
        elif verdict.answer == ACCEPTED:
            future.set_result(None)
            return
        else:
            why = verdict.answer.decode(errors="replace")
        future.set_exception(
            InvalidRequest(f"{guide.called} cannot be used: {why.rstrip('.')}.", guide.param or None)
        )

    def _cancelled(self, key: bytes) -> None:
        with self._lock:
            check = self._checks.get(key)
            if check is None or not all(future.cancelled() for future, _ in check.waiting):
                return
            del self._checks[key]
        check.outcome.cancel()


def available() -> bool:
    """Whether XGrammar is installed. Logs a warning when it is not: guides then go unchecked."""
    if find_spec("xgrammar") is not None:
        return True
    log.warning(
        "xgrammar is not installed: guides reach TensorRT-LLM unchecked, and one that it cannot compile ends "
        "every active request"
    )
    return False
