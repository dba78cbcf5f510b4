"""A step's input from rank 0 to the others through shared memory: a ring of messages and sequence numbers.

Rank 0 fills a slot and then raises the number of messages sent; a follower copies the slot's arrays and then
raises its own number, which frees the slot. (Stores become visible in program order on x86-64; CPython's
NumPy assignments are such stores.) No system call lies on a step's way while it is watched for.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Final

import numpy as np

SLOTS: Final = 4
PAGE: Final = 4096
"""Bytes of the header: int64 number sent, then int64 number received by each rank."""
WATCH_S: Final = 0.05
"""Duration for which a follower looks for the next step without sleeping."""
SLEEP_S: Final = 0.0005
SEND_TIMEOUT_S: Final = 60.0
"""A follower may compile kernels for as long before it takes the next step."""


def create() -> int:
    """A file descriptor of shared memory, for `PlanChannel` here and in processes that inherit it."""
    return os.memfd_create("plans", 0)


class PlanChannel:
    """One end. `words`: most int32 of all arrays of a message; the same number at every end."""

    def __init__(self, fd: int, words: int, rank: int, size: int) -> None:
        self._rank, self._size, self._done = rank, size, 0
        slot = -(-(words + 64) * 4 // PAGE) * PAGE
        total = PAGE + SLOTS * slot
        os.ftruncate(fd, total)  # pages take memory once they are written
        shared = mmap.mmap(fd, total)
        os.close(fd)
        self._counts = np.frombuffer(shared, np.int64, PAGE // 8)
        self._slots = np.frombuffer(shared, np.int32, SLOTS * slot // 4, PAGE).reshape(SLOTS, -1)

    def send(self, arrays: list[np.ndarray]) -> None:
        """Rank 0's: send int32 `arrays`. Raises `RuntimeError` when a rank does not take earlier ones."""
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
        """A follower's: wait for the next message; copies of its arrays."""
        since = time.monotonic()
        while self._counts[0] <= self._done:
            time.sleep(0 if time.monotonic() - since < WATCH_S else SLEEP_S)
        slot = self._slots[self._done % SLOTS]
        count = int(slot[0])
        at, arrays = 1 + count, []
        for length in slot[1 : 1 + count].tolist():
            arrays.append(slot[at : at + length].copy())
            at += length
        self._done += 1
        self._counts[self._rank] = self._done
        return arrays

    def _wait_for_slot(self) -> None:
        oldest = self._done - SLOTS
        since = time.monotonic()
        while (taken := self._counts[1 : self._size]).min() <= oldest:
            if time.monotonic() - since > SEND_TIMEOUT_S:
                late = int(taken.argmin()) + 1
                raise RuntimeError(f"rank {late} has not taken a step for {SEND_TIMEOUT_S:.0f} seconds")
            time.sleep(0)
