"""Admission control: limits on waiting sequences and on requests per API key, and the retry-after estimate.

A sequence waits from its submission to its first output. Waiting sequences cost memory and latency; running
ones are limited by the engine. Limits apply to the whole server: its HTTP processes share the counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import Overloaded
from trtllm_openai.generation import QUEUE_FULL, QUEUE_TIMEOUT
from trtllm_openai.runners.shared_counters import SharedCounters

LONGEST_RETRY = 60


class Admission:
    """Admits or rejects requests. `rejected` is called with the error code of every rejection."""

    def __init__(
        self, limits: LimitSettings, rejected: Callable[[str], None], counters: SharedCounters
    ) -> None:
        self._limits = limits
        self._rejected = rejected
        self._counters = counters

    @property
    def waiting(self) -> int:
        """Number of this process's sequences without a first output."""
        return self._counters.waiting

    def enter(self, key: str, prompt_tokens: list[int]) -> Ticket:
        """Admit sequences with these prompt lengths. Raises `Overloaded` with the exceeded limit."""
        sequences, tokens = len(prompt_tokens), sum(prompt_tokens)
        slot = None
        counters = self._counters
        with counters:
            if self._limits.max_requests_per_key is not None:
                slot = counters.slot(key)
            exceeded = self._exceeded(slot, sequences, tokens)
            if exceeded is None:
                counters.wait(sequences, tokens)
                if slot is not None:
                    counters.open(slot)
        if exceeded is not None:
            raise self._reject(*exceeded)
        return Ticket(counters, slot, prompt_tokens)

    def _exceeded(self, slot: int | None, sequences: int, tokens: int) -> tuple[str, str] | None:
        """Code and message of the limit that a request would exceed, or None."""
        limits = self._limits
        most = limits.max_requests_per_key
        if most is not None:
            if slot is None:
                return "key_concurrency", "Too many API keys have open requests."
            if self._counters.opened(slot) >= most:
                return "key_concurrency", f"This API key may have {most} concurrent requests."
        # An empty queue admits any request, so that none is rejected for ever.
        waiting, waiting_tokens = self._counters.totals()
        if waiting and waiting + sequences > limits.max_waiting_requests:
            return QUEUE_FULL, f"{waiting} sequences are waiting, {limits.max_waiting_requests} may."
        if waiting and waiting_tokens + tokens > limits.max_waiting_tokens:
            return QUEUE_FULL, f"{waiting_tokens} prompt tokens are waiting, {limits.max_waiting_tokens} may."
        return None

    def too_late(self) -> Overloaded:
        """The error of a request that exceeded the queue timeout."""
        waited = f"The request was queued for longer than {self._limits.queue_timeout:g} s."
        return self._reject(QUEUE_TIMEOUT, waited)

    def engine_refusal(self, code: str) -> Overloaded:
        """The error of a request that found no place in the engine: `QUEUE_FULL` or `QUEUE_TIMEOUT`."""
        if code == QUEUE_FULL:
            return self._reject(code, "The engine's queue is full.")
        return self.too_late()

    def retry_after_ms(self) -> int:
        """Milliseconds until half of the queue will have begun at the current rate; from 1 s to 60 s."""
        begun = self._counters.begin_times()
        if len(begun) < 2:
            return 1000
        rate = len(begun) / max(time.monotonic() - begun[0], 1e-3)
        waiting, _ = self._counters.totals()
        return round(1000 * min(max(waiting / 2 / rate, 1.0), LONGEST_RETRY))

    def _reject(self, code: str, message: str) -> Overloaded:
        self._rejected(code)
        return Overloaded(message, code, self.retry_after_ms())


class Ticket:
    """The admission of one request, until its sequences begin and it ends. Must be closed."""

    __slots__ = ("_counters", "_slot", "_waiting")

    def __init__(self, counters: SharedCounters, slot: int | None, prompt_tokens: list[int]) -> None:
        self._counters = counters
        self._slot = slot
        self._waiting = dict(enumerate(prompt_tokens))

    def begun(self, index: int) -> None:
        """Sequence `index` has its first output. Idempotent."""
        tokens = self._waiting.pop(index, None)
        if tokens is not None:
            self._counters.dequeue(tokens)
            self._counters.begun(time.monotonic())

    def close(self) -> None:
        """Release the request's counts. Idempotent."""
        while self._waiting:
            _, tokens = self._waiting.popitem()
            self._counters.dequeue(tokens)
        if self._slot is not None:
            self._counters.leave(self._slot)
            self._slot = None
