"""Who may wait: bounds on what has not begun yet, and when to try again.

A sequence waits from its submission to its first output. What waits costs memory and other clients' patience;
what runs is bounded by the engine. The bounds are those of the server: its HTTP processes count on one board.
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
    """Counts what waits and what each key has open. `rejected` is told the reason of every refusal."""

    def __init__(self, limits: LimitSettings, rejected: Callable[[str], None], board: SharedCounters) -> None:
        self._limits = limits
        self._rejected = rejected
        self._board = board

    @property
    def waiting(self) -> int:
        """Sequences of this process that have not begun."""
        return self._board.waiting

    def enter(self, key: str, prompt_tokens: list[int]) -> Ticket:
        """Let in sequences with prompts of these lengths. Raises `Overloaded` naming the bound."""
        sequences, tokens = len(prompt_tokens), sum(prompt_tokens)
        place = None
        board = self._board
        with board:
            if self._limits.max_requests_per_key is not None:
                place = board.place(key)
            met = self._bound(place, sequences, tokens)
            if met is None:
                board.wait(sequences, tokens)
                if place is not None:
                    board.open(place)
        if met is not None:
            raise self._refuse(*met)
        return Ticket(board, place, prompt_tokens)

    def _bound(self, place: int | None, sequences: int, tokens: int) -> tuple[str, str] | None:
        """Code and message of the bound that these would pass."""
        limits = self._limits
        most = limits.max_requests_per_key
        if most is not None:
            if place is None:
                return "key_concurrency", "Too many API keys have requests open."
            if self._board.opened(place) >= most:
                return "key_concurrency", f"This API key may have {most} requests open at once."
        # What fits an empty queue is never refused, however many sequences it has.
        waiting, waiting_tokens = self._board.totals()
        if waiting and waiting + sequences > limits.max_waiting_requests:
            return QUEUE_FULL, f"{waiting} sequences are waiting already."
        if waiting and waiting_tokens + tokens > limits.max_waiting_tokens:
            return QUEUE_FULL, f"{waiting_tokens} prompt tokens are waiting already."
        return None

    def too_late(self) -> Overloaded:
        """The error of a sequence that waited longer than it may."""
        waited = f"The request waited longer than {self._limits.queue_timeout:g} s for its turn."
        return self._refuse(QUEUE_TIMEOUT, waited)

    def engine_refusal(self, code: str) -> Overloaded:
        """The error of a sequence that ended with the engine's `QUEUE_TIMEOUT` or `QUEUE_FULL`."""
        if code == QUEUE_FULL:
            return self._refuse(code, "The engine's queue is full.")
        return self.too_late()

    def retry_after_ms(self) -> int:
        """When half of what waits will have begun, at the present rate; 1 s to a minute."""
        begun = self._board.begin_times()
        if len(begun) < 2:
            return 1000
        rate = len(begun) / max(time.monotonic() - begun[0], 1e-3)
        waiting, _ = self._board.totals()
        return round(1000 * min(max(waiting / 2 / rate, 1.0), LONGEST_RETRY))

    def _refuse(self, code: str, message: str) -> Overloaded:
        self._rejected(code)
        return Overloaded(message, code, self.retry_after_ms())


class Ticket:
    """One request's place. Sequences begin one by one; must be closed."""

    __slots__ = ("_board", "_place", "_waiting")

    def __init__(self, board: SharedCounters, place: int | None, prompt_tokens: list[int]) -> None:
        self._board = board
        self._place = place
        self._waiting = dict(enumerate(prompt_tokens))

    def begun(self, index: int) -> None:
        """Sequence `index` has its first output. Idempotent."""
        tokens = self._waiting.pop(index, None)
        if tokens is not None:
            self._board.dequeue(tokens)
            self._board.begun(time.monotonic())

    def close(self) -> None:
        """The request is over, however it ended. Idempotent."""
        while self._waiting:
            _, tokens = self._waiting.popitem()
            self._board.dequeue(tokens)
        if self._place is not None:
            self._board.leave(self._place)
            self._place = None
