"""Numbers that the HTTP processes of one server share: what waits, what is open, who has which connections.

Each process writes its own row and a total is a sum over rows, so that a process which is gone takes its part
along when its row is cleared, at whatever moment it died. One thread of a process uses the board.

Only what adds after a look at the totals needs the lock (`with board:`). Taking off does not: who still sees
the number before it sees the state of a moment ago.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import Self

RECENT = 64
"""Begun sequences that are remembered."""
KEYS = 1024
"""API keys that may have something open at once."""

_WORD = 8
_DIGEST = 16


class SharedCounters:
    """One process's view: `alone()` if there is no other, else `create()` and, in each worker, `attach()`."""

    def __init__(self, memory: bytearray | mmap.mmap, rows: int, row: int, fd: int | None) -> None:
        self.fd = fd
        """The shared memory, for `attach` in a process that inherits it; None for one that is alone."""
        self._rows = rows
        self._row = row
        words = memoryview(memory).cast("q")
        # Words of 8 bytes, so that each is written at once: a killed process leaves none half written.
        self._waiting, self._tokens, self._connections, self._accepting = (
            words[n * rows : (n + 1) * rows] for n in range(4)
        )
        at = 4 * rows
        times = words[at : at + rows * RECENT].cast("B").cast("d")
        self._times = times
        self._own_times = times[row * RECENT : (row + 1) * RECENT]
        own = self._own_times.tolist()
        self._oldest = own.index(min(own)) if own else 0
        at += rows * RECENT
        # What each row has open, place by place, and whose the places are. Where nothing is open is free.
        self._open = words[at : at + KEYS * rows]
        self._keys = words[at + KEYS * rows :].cast("B")
        self._nothing = bytes(rows * _WORD)

    @classmethod
    def alone(cls) -> Self:
        """One row that nobody else sees, without a lock."""
        return cls(bytearray(_size(1)), 1, 0, None)

    @classmethod
    def create(cls, rows: int) -> Self:
        """Shared memory for this many workers. The creator has no row: it reads and clears."""
        fd = os.memfd_create("trtllm-openai-board")
        os.ftruncate(fd, _size(rows))
        return cls.attach(fd, rows, rows)

    @classmethod
    def attach(cls, fd: int, rows: int, row: int) -> Self:
        """A worker's view: `fd` and `rows` as created, `row` its own, which is new or was cleared."""
        return cls(mmap.mmap(fd, _size(rows)), rows, row, fd)

    def __enter__(self) -> None:
        # A lock of the process, which the kernel takes back from a dead one; flock's belongs to the inherited
        # descriptor and would exclude nobody.
        if self.fd is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def clear(self, row: int) -> None:
        """The worker of this row is gone (dead, not dying): nothing it held counts any more.

        What it began stays in `begin_times`: the engine did begin it.
        """
        for column in (self._waiting, self._tokens, self._connections, self._accepting):
            column[row] = 0
        self._open[row :: self._rows] = memoryview(bytes(KEYS * _WORD)).cast("q")

    # --- what waits ---

    @property
    def waiting(self) -> int:
        """Own sequences that have not begun."""
        return self._waiting[self._row]

    def totals(self) -> tuple[int, int]:
        """Waiting sequences and their prompt tokens, of all rows; never too few while the lock is held."""
        return sum(self._waiting), sum(self._tokens)

    def wait(self, sequences: int, tokens: int) -> None:
        """Own sequences wait. Under the lock."""
        self._waiting[self._row] += sequences
        self._tokens[self._row] += tokens

    def dequeue(self, tokens: int) -> None:
        """An own sequence waits no longer."""
        self._waiting[self._row] -= 1
        self._tokens[self._row] -= tokens

    def begun(self, now: float) -> None:
        """An own sequence began at this time of the monotonic clock, which is the same in all processes."""
        self._own_times[self._oldest] = now
        self._oldest = (self._oldest + 1) % RECENT

    def begin_times(self) -> list[float]:
        """When the last sequences of all rows began, at most `RECENT`, the oldest first."""
        return [time for time in sorted(self._times)[-RECENT:] if time]

    # --- what a key has open ---

    def place(self, key: str) -> int | None:
        """The place of a key's count, taken for it if it has none. Under the lock. None: all are in use."""
        digest = _digest(key)
        found: int = self._keys.tobytes().find(digest)
        if found >= 0:
            return found // _DIGEST
        first = int.from_bytes(digest) % KEYS
        for place in chain(range(first, KEYS), range(first)):
            if self._open[place * self._rows : (place + 1) * self._rows].tobytes() == self._nothing:
                self._keys[place * _DIGEST : (place + 1) * _DIGEST] = digest
                return place
        return None

    def opened(self, place: int) -> int:
        """Requests that are open at a place, of all rows."""
        return sum(self._open[place * self._rows : (place + 1) * self._rows])

    def open(self, place: int) -> None:
        """One more own request is open here. Under the lock."""
        self._open[place * self._rows + self._row] += 1

    def leave(self, place: int) -> None:
        """One own request less; with the last of all rows the place is free."""
        self._open[place * self._rows + self._row] -= 1

    # --- connections: read without the lock, a little late does no harm ---

    @property
    def connections(self) -> int:
        """Own open connections."""
        return self._connections[self._row]

    @connections.setter
    def connections(self, number: int) -> None:
        self._connections[self._row] = number

    @property
    def accepting(self) -> bool:
        """Whether this process takes new connections; at first not."""
        return bool(self._accepting[self._row])

    @accepting.setter
    def accepting(self, does: bool) -> None:
        self._accepting[self._row] = does

    def fewest_connections(self) -> int | None:
        """The smallest number that another row has which accepts; None if there is none."""
        rows = enumerate(zip(self._connections, self._accepting, strict=True))
        others = [number for row, (number, accepts) in rows if accepts and row != self._row]
        return min(others, default=None)


def _size(rows: int) -> int:
    return _WORD * rows * (4 + RECENT + KEYS) + _DIGEST * KEYS


@lru_cache(maxsize=KEYS)
def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=_DIGEST).digest()
