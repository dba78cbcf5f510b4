"""Broadcasts step inputs from rank 0 to the other ranks through a ring buffer in shared memory.

Rank 0 fills a slot and then increments the count of sent messages; a follower copies the arrays out of the
slot and then increments its own count, which frees the slot. (On x86-64 stores become visible in program
order, and NumPy assignments in CPython are such stores.) While a follower spins, a step needs no system call.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Final

import numpy as np

SLOTS: Final = 4
PAGE: Final = 4096
"""Bytes of the header: int64 count of sent messages, then an int64 count of received ones per rank."""
SPIN_S: Final = 0.05
"""Time that a follower spins for the next step before it starts to sleep."""
SLEEP_S: Final = 0.0005
SEND_TIMEOUT_S: Final = 60.0
"""Long enough for a follower to compile kernels before it receives the next step."""


def create() -> int:
    """Create shared memory for `PlanChannel`; child processes inherit the file descriptor."""
    return os.memfd_create("plans", 0)


class PlanChannel:
    """One end of the channel. `words`: maximum int32 values per message; must be equal on all ranks."""

    def __init__(self, fd: int, words: int, rank: int, size: int) -> None:
        self._rank, self._size, self._done = rank, size, 0
        slot = -(-(words + 64) * 4 // PAGE) * PAGE
        total = PAGE + SLOTS * slot
        os.ftruncate(fd, total)  # pages are allocated on first write
        shared = mmap.mmap(fd, total)
        os.close(fd)
        self._counts = np.frombuffer(shared, np.int64, PAGE // 8)
        self._slots = np.frombuffer(shared, np.int32, SLOTS * slot // 4, PAGE).reshape(SLOTS, -1)

    def send(self, arrays: list[np.ndarray]) -> None:
        """Send int32 `arrays` (rank 0). Raises `RuntimeError` if a rank does not free a slot in time."""
        self._wait_for_slot()
        slot = self._slots[self._done % SLOTS]
        at = 1 + len(arrays)
        slot[0] = len(arrays)
        for index, array in enumerate(arrays):
            slot[1 + index] = len(array)
            slot[at : at + len(array)] = array
            at += len(array)
        self._done += 1
        self._counts[0] = self._done

    def receive(self) -> list[np.ndarray]:
        """Wait for the next message and return copies of its arrays (followers)."""
        since = time.monotonic()
        while self._counts[0] <= self._done:
            time.sleep(0 if time.monotonic() - since < SPIN_S else SLEEP_S)
        slot = self._slots[self._done % SLOTS]
        count = int(slot[0])
        at, arrays = 1 + count, []
        for length in slot[1 : 1 + count].tolist():
            arrays.append(slot[at : at + length].copy())
            at += length
        self._done += 1
        self._counts[self._rank] = self._done
        return arrays

    def awaited(self, rank: int) -> int:
        """Return the number of the message, from 1, that `rank` has yet to receive; 0 if it has all."""
        received = int(self._counts[rank])
        return received + 1 if received < self._counts[0] else 0

    def _wait_for_slot(self) -> None:
        oldest = self._done - SLOTS
        since = time.monotonic()
        while (taken := self._counts[1 : self._size]).min() <= oldest:
            if time.monotonic() - since > SEND_TIMEOUT_S:
                late = int(taken.argmin()) + 1
                raise RuntimeError(f"rank {late} has not received a step for {SEND_TIMEOUT_S:g} seconds")
            time.sleep(0)
