"""Who may wait: bounds on what has not begun yet, and when to try again.

A sequence waits from its submission to its first output. What waits costs memory and other clients' patience;
what runs is bounded by the engine.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from app.config import LimitSettings

LONGEST_RETRY = 60
RECENT = 64
"""Begun sequences that the drain rate is measured over."""


class Overloaded(Exception):  # noqa: N818 - the field's name for it
    """Too much is waiting. `code` says which bound was met."""

    def __init__(self, message: str, code: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class Admission:
    """Counts what waits and what each key has open. `rejected` is told the reason of every refusal."""

    def __init__(self, limits: LimitSettings, rejected: Callable[[str], None]) -> None:
        self._limits = limits
        self._rejected = rejected
        self._waiting = 0
        self._waiting_tokens = 0
        self._open: Counter[str] = Counter()
        self._begun: deque[float] = deque(maxlen=RECENT)

    @property
    def waiting(self) -> int:
        """Sequences that have not begun."""
        return self._waiting

    def enter(self, key: str, prompt_tokens: list[int]) -> Ticket:
        """Let in sequences with prompts of these lengths. Raises `Overloaded` naming the bound."""
        limits = self._limits
        most = limits.max_requests_per_key
        if most is not None and self._open[key] >= most:
            raise self._refuse("key_concurrency", f"This API key may have {most} requests open at once.")
        # What fits an empty queue is never refused, however many sequences it has.
        if self._waiting and self._waiting + len(prompt_tokens) > limits.max_waiting_requests:
            raise self._refuse("queue_full", f"{self._waiting} sequences are waiting already.")
        tokens = sum(prompt_tokens)
        if self._waiting and self._waiting_tokens + tokens > limits.max_waiting_tokens:
            raise self._refuse("queue_full", f"{self._waiting_tokens} prompt tokens are waiting already.")
        self._open[key] += 1
        self._waiting += len(prompt_tokens)
        self._waiting_tokens += tokens
        return Ticket(self, key, prompt_tokens)

    def too_late(self) -> Overloaded:
        """The error of a sequence that waited longer than it may."""
        waited = f"The request waited longer than {self._limits.queue_timeout:g} s for its turn."
        return self._refuse("queue_timeout", waited)

    def leave(self, key: str) -> None:
        """A request is over."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def dequeue(self, tokens: int, *, begun: bool) -> None:
        """A sequence waits no longer."""
        self._waiting -= 1
        self._waiting_tokens -= tokens
        if begun:
            self._begun.append(time.monotonic())

    def retry_after_ms(self) -> int:
        """When half of what waits will have begun, at the present rate; 1 s to a minute."""
        if len(self._begun) < 2:
            return 1000
        rate = len(self._begun) / max(time.monotonic() - self._begun[0], 1e-3)
        return round(1000 * min(max(self._waiting / 2 / rate, 1.0), LONGEST_RETRY))

    def _refuse(self, code: str, message: str) -> Overloaded:
        self._rejected(code)
        return Overloaded(message, code, self.retry_after_ms())


class Ticket:
    """One request's place. Sequences begin one by one; must be closed."""

    __slots__ = ("_admission", "_key", "_waiting")

    def __init__(self, admission: Admission, key: str, prompt_tokens: list[int]) -> None:
        self._admission = admission
        self._key: str | None = key
        self._waiting = dict(enumerate(prompt_tokens))

    def begun(self, index: int) -> None:
        """Sequence `index` has its first output. Idempotent."""
        tokens = self._waiting.pop(index, None)
        if tokens is not None:
            self._admission.dequeue(tokens, begun=True)

    def close(self) -> None:
        """The request is over, however it ended. Idempotent."""
        while self._waiting:
            _, tokens = self._waiting.popitem()
            self._admission.dequeue(tokens, begun=False)
        if self._key is not None:
            self._admission.leave(self._key)
            self._key = None
