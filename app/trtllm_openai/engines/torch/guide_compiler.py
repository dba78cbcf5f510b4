"""Compiles guides beside the engine: first on trial in another process (`guide_trial`), then in a thread.

A guide that passed its trial is known to compile here within its bounds. Outcomes are remembered, so that the
same guide is tried once, and matchers are kept (`guide_cache`), so that it is compiled once. Guides that took
long wait in a queue of their own.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from hashlib import blake2b

from trtllm_openai.engines.torch import guide_trial
from trtllm_openai.engines.torch.guide_cache import GuideCache
from trtllm_openai.engines.torch.guide_trial import Setup
from trtllm_openai.engines.torch.guides import GuideLimits, GuideMatcher, compile_guide, make_tokenizer
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GUIDE_COMPILE_BOUNDS, Guide
from trtllm_openai.processes.fork_client import ForkClient
from trtllm_openai.processes.fork_server import Outcome

REMEMBERED = 1000
"""Outcomes that are kept."""
QUICK_S = 0.2
"""CPU seconds of compilation; guides that take longer wait for each other only."""


class GuideCompiler:
    """Compiles guides to matchers. Used by one thread."""

    def __init__(
        self, vocabulary: Sequence[bytes], vocab_size: int, end_ids: Sequence[int], limits: GuideLimits
    ) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones. `vocab_size`: width of logits."""
        self._end_ids = tuple(end_ids)
        self._limits = limits
        self._quick, self._slow = (ThreadPoolExecutor(1, f"guide-{name}") for name in ("quick", "slow"))
        # Building the tokenizer takes half a second; a thread keeps it from delaying startup.
        self._tokenizer = self._quick.submit(make_tokenizer, vocabulary, vocab_size, end_ids)
        setup = Setup(list(vocabulary), vocab_size, self._end_ids, limits.max_mask_ms)
        self._trials = ForkClient(
            guide_trial.__name__,
            lambda: guide_trial.encode(setup),
            guide_trial.bounds(limits),
            "tries guides",
        )
        self._lock = threading.Lock()  # what follows is shared with the thread that reads outcomes
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()
        self.cache = GuideCache()
        self._closed = False
        self.compiled = 0
        """Guides that were compiled."""
        self.refused: Counter[str] = Counter()
        """Guides that were refused, by error code."""
        self.counts = [0] * (len(GUIDE_COMPILE_BOUNDS) + 1)
        """Trials by CPU time: a histogram, see `EngineStats.guide_compile_counts`."""
        self.seconds = 0.0
        """CPU seconds that trials took."""

    def compile(self, guide: Guide) -> Future[GuideMatcher]:
        """Return a future matcher. The future raises `InvalidRequest` if the guide cannot be used.

        Cancelling it ends the compilation.
        """
        future: Future[GuideMatcher] = Future()
        with self._lock:
            kept = self.cache.get(guide)
            known = self._known.get(_digest(guide))
        if kept is not None:
            future.set_result(kept)
            return future
        if known is not None:
            self._judge(guide, future, known)
            return future
        trial = self._trials.run(guide_trial.encode(guide))
        future.add_done_callback(lambda done: trial.cancel() if done.cancelled() else None)
        trial.add_done_callback(lambda done: self._tried(guide, future, done))
        return future

    def close(self) -> None:
        """End the process of trials, and forget queued compilations without waiting for running ones."""
        self._closed = True
        self._trials.close()
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)

    def _tried(self, guide: Guide, future: Future[GuideMatcher], trial: Future[Outcome]) -> None:
        """A trial has ended; called by the thread that reads outcomes, or by the one that cancels."""
        try:
            outcome = trial.result()
        except CancelledError:
            return
        except RuntimeError as error:  # the process failed, not the guide
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        with self._lock:
            self.seconds += outcome.cpu_s
            self.counts[bisect_left(GUIDE_COMPILE_BOUNDS, outcome.cpu_s)] += 1
            self._known[_digest(guide)] = outcome
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._judge(guide, future, outcome)

    def _judge(self, guide: Guide, future: Future[GuideMatcher], outcome: Outcome) -> None:
        verdict = guide_trial.verdict(guide, outcome, self._limits)
        if verdict.refusal:
            self.refused[verdict.code] += 1
            if future.set_running_or_notify_cancel():
                future.set_exception(InvalidRequest(verdict.refusal, verdict.param, verdict.code))
            return
        threads = self._quick if outcome.cpu_s < QUICK_S else self._slow
        if not self._closed:
            threads.submit(self._compile, guide, future)

    def _compile(self, guide: Guide, future: Future[GuideMatcher]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            arguments = self._tokenizer.result(), guide, self._end_ids, self._limits.max_mask_ms
            matcher = compile_guide(*arguments)
            with self._lock:
                self.cache.add(guide, matcher)
            self.compiled += 1
            future.set_result(matcher)
        except Exception as error:
            future.set_exception(error)


def _digest(guide: Guide) -> bytes:
    return blake2b(guide_trial.encode(guide), digest_size=16).digest()
