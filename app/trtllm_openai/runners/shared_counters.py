"""Counters that the HTTP processes of one server share: waiting sequences, requests per key, connections.

They are in shared memory. Each process writes only its own row, and a total is the sum over rows. Clearing
the row of a dead process removes its counts, whenever it died. Only one thread per process may use them.

A key's slot also has its rate limits, as token buckets that refill continuously: each is one number, the
time at which the bucket will be full (GCRA's theoretical arrival time). They belong to no row: what a process
spent stays spent when it dies.

Increments that depend on a total need the lock (`with counters.lock:`). Decrements need no lock: a reader
that still sees the old value only over-counts.
"""

from __future__ import annotations

import mmap
import os
import time
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple, Self

from trtllm_openai.processes.lock import ProcessLock

RECENT = 64
"""Number of begin times kept per row."""
KEYS = 1024
"""Maximum number of API keys with open requests, or a bucket that is not full, at a time."""
BUCKETS = 2
"""Token buckets of a slot."""
COLUMNS = 5
"""Numbers of a row that are neither times nor by key."""

_BEHIND, _READY = 1, 2
_WORD = 8
_DIGEST = 16


class Counts(NamedTuple):
    """What an admission depends on, over all rows; never an under-count while locked."""

    waiting: int
    """Waiting sequences."""
    tokens: int
    """Their prompt tokens."""
    slot: int | None
    """The key's slot; None without a key, and when all slots are in use."""
    opened: int
    """The key's open requests."""


class SharedCounters:
    """One process's view of the counters.

    `alone()` is for a single process. Otherwise the supervisor calls `create()` and each worker `attach()`.
    """

    def __init__(self, memory: bytearray | mmap.mmap, rows: int, row: int, fd: int | None) -> None:
        self.fd = fd
        """Descriptor of the shared memory, for `attach` in a process that inherits it; None if not shared."""
        self.lock = ProcessLock(fd)
        self._rows = rows
        self._row = row
        words = memoryview(memory).cast("q")
        # Aligned 8-byte words are written atomically: a killed process leaves none half written.
        self._waiting, self._tokens, self._connections, self._accepting, self._readiness = (
            words[n * rows : (n + 1) * rows] for n in range(COLUMNS)
        )
        at = COLUMNS * rows
        times = words[at : at + rows * RECENT].cast("B").cast("d")
        self._times = times
        self._own_times = times[row * RECENT : (row + 1) * RECENT]
        own = self._own_times.tolist()
        self._oldest = own.index(min(own)) if own else 0
        at += rows * RECENT
        # By slot and row: open requests, and waiting sequences with their prompt tokens.
        self._open, self._queued, self._queued_tokens = (
            words[at + n * KEYS * rows : at + (n + 1) * KEYS * rows] for n in range(3)
        )
        at += 3 * KEYS * rows
        # By slot: when its buckets are full, its key's digest.
        self._full = words[at : at + KEYS * BUCKETS].cast("B").cast("d")
        self._keys = words[at + KEYS * BUCKETS :].cast("B")
        self._nothing = bytes(rows * _WORD)

    @classmethod
    def alone(cls) -> Self:
        """Private counters with one row and no lock."""
        return cls(bytearray(_size(1)), 1, 0, None)

    @classmethod
    def create(cls, rows: int) -> Self:
        """Allocate shared memory for `rows` workers. The creator has no row: it only reads and clears."""
        fd = os.memfd_create("trtllm-openai-counters")
        os.ftruncate(fd, _size(rows))
        return cls.attach(fd, rows, rows)

    @classmethod
    def attach(cls, fd: int, rows: int, row: int) -> Self:
        """Map the memory in a worker. `row`: its own row, which is new or was cleared."""
        return cls(mmap.mmap(fd, _size(rows)), rows, row, fd)

    def clear(self, row: int) -> None:
        """Reset the row of a dead worker. The process must have ended.

        Its begin times stay: they describe the engine's rate.
        """
        for column in (self._waiting, self._tokens, self._connections, self._accepting, self._readiness):
            column[row] = 0
        for by_key in (self._open, self._queued, self._queued_tokens):
            by_key[row :: self._rows] = memoryview(bytes(KEYS * _WORD)).cast("q")

    # --- waiting sequences ---

    @property
    def waiting(self) -> int:
        """Own sequences without a first output."""
        return self._waiting[self._row]

    def totals(self) -> tuple[int, int]:
        """Waiting sequences and their prompt tokens over all rows; never an under-count while locked."""
        return sum(self._waiting), sum(self._tokens)

    def counts(self, key: str | None, now: float) -> Counts:
        """The totals, and those of an API key if there is one. Requires the lock, with a key."""
        slot = None if key is None else self.slot(key, now)
        opened = 0 if slot is None else self.opened(slot)
        return Counts(sum(self._waiting), sum(self._tokens), slot, opened)

    def admit(self, sequences: int, tokens: int, slot: int | None = None) -> None:
        """Add own waiting sequences, and an open request of a key with its `slot`. Requires the lock."""
        self._waiting[self._row] += sequences
        self._tokens[self._row] += tokens
        if slot is not None:
            index = slot * self._rows + self._row
            self._queued[index] += sequences
            self._queued_tokens[index] += tokens
            self._open[index] += 1

    def dequeue(self, tokens: int, slot: int | None = None) -> None:
        """Remove one own waiting sequence."""
        self._waiting[self._row] -= 1
        self._tokens[self._row] -= tokens
        if slot is not None:
            self._queued[slot * self._rows + self._row] -= 1
            self._queued_tokens[slot * self._rows + self._row] -= tokens

    def waiting_of(self, slot: int) -> tuple[int, int]:
        """Waiting sequences of a key and their prompt tokens, over all rows."""
        rows = slice(slot * self._rows, (slot + 1) * self._rows)
        return sum(self._queued[rows]), sum(self._queued_tokens[rows])

    def waiting_keys(self) -> int:
        """Number of keys with waiting sequences."""
        return len({index // self._rows for index, number in enumerate(self._queued) if number})

    def begun(self, now: float) -> None:
        """Record that an own sequence began at `now` (monotonic clock, common to all processes)."""
        self._own_times[self._oldest] = now
        self._oldest = (self._oldest + 1) % RECENT

    def begin_times(self) -> list[float]:
        """The latest begin times over all rows, at most `RECENT`, oldest first."""
        return [time for time in sorted(self._times)[-RECENT:] if time]

    # --- open requests and rates per API key ---

    def slot(self, key: str, now: float | None = None) -> int | None:
        """Find or allocate the slot of an API key; None if all are in use. Requires the lock.

        A slot is free without open requests and with buckets that are full at `now` (monotonic clock).
        """
        now = time.monotonic() if now is None else now
        digest = _digest(key)
        found: int = self._keys.tobytes().find(digest)
        if found >= 0:
            return found // _DIGEST
        first = int.from_bytes(digest) % KEYS
        for slot in chain(range(first, KEYS), range(first)):
            unused = self._open[slot * self._rows : (slot + 1) * self._rows].tobytes() == self._nothing
            if unused and max(self._full[slot * BUCKETS : (slot + 1) * BUCKETS]) <= now:
                self._keys[slot * _DIGEST : (slot + 1) * _DIGEST] = digest
                return slot
        return None

    def opened(self, slot: int) -> int:
        """Open requests of a slot over all rows."""
        return sum(self._open[slot * self._rows : (slot + 1) * self._rows])

    def leave(self, slot: int) -> None:
        """Remove one own open request; the last one of all rows frees the slot."""
        self._open[slot * self._rows + self._row] -= 1

    def missing(self, slot: int, bucket: int, per_minute: float, now: float) -> float:
        """What was taken from a bucket of size `per_minute` and has not been refilled."""
        return max(0.0, self._full[slot * BUCKETS + bucket] - now) * per_minute / 60

    def take(self, slot: int, bucket: int, amount: float, per_minute: float, now: float) -> None:
        """Take from a bucket, even more than it has. Requires the lock."""
        index = slot * BUCKETS + bucket
        self._full[index] = max(self._full[index], now) + amount * 60 / per_minute

    # --- connections: read without the lock, slightly stale values are harmless ---

    @property
    def connections(self) -> int:
        """Own open connections."""
        return self._connections[self._row]

    @connections.setter
    def connections(self, number: int) -> None:
        self._connections[self._row] = number

    @property
    def accepting(self) -> bool:
        """Whether this process accepts connections; initially False."""
        return bool(self._accepting[self._row])

    @accepting.setter
    def accepting(self, does: bool) -> None:
        self._accepting[self._row] = does

    def fewest_connections(self) -> int | None:
        """Fewest connections of any other accepting row; None if there is none."""
        rows = enumerate(zip(self._connections, self._accepting, strict=True))
        others = [number for row, (number, accepts) in rows if accepts and row != self._row]
        return min(others, default=None)

    # --- readiness: read without the lock, too ---

    def set_ready(self, ready: bool | None) -> None:
        """Whether this process serves requests; None, as before the first call: it is not going to."""
        self._readiness[self._row] = 0 if ready is None else _READY if ready else _BEHIND

    @property
    def behind(self) -> bool:
        """Whether this process is not ready yet, while another one is."""
        mine: int = self._readiness[self._row]
        return mine == _BEHIND and _READY in self._readiness

    @property
    def others_behind(self) -> bool:
        """Whether another process that has connections, or accepts them, is not ready yet."""
        rows = enumerate(zip(self._readiness, self._connections, self._accepting, strict=True))
        return any(
            state == _BEHIND and (number > 0 or accepts)
            for row, (state, number, accepts) in rows
            if row != self._row
        )


def _size(rows: int) -> int:
    return _WORD * rows * (COLUMNS + RECENT + 3 * KEYS) + (_WORD * BUCKETS + _DIGEST) * KEYS


@lru_cache(maxsize=KEYS)
def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=_DIGEST).digest()
