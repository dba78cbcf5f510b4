"""Freed memory goes back to the system."""

import asyncio
import ctypes
import mmap
from typing import Any

import pytest

from trtllm_openai.processes import memory
from trtllm_openai.processes.memory import SLACK, keep_releasing, release_free_memory, resident


class Library:
    """In libc's place; records the padding that it is asked to keep."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def malloc_trim(self, padding: int) -> int:
        self.kept.append(padding)
        return 1


def test_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    release_free_memory()
    assert library.kept == [0]


def test_a_c_library_without_malloc_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or object())  # type: ignore[func-returns-value]  # append, then
    release_free_memory()
    assert asked == [None]


def test_the_memory_of_this_process() -> None:
    before = resident()
    with mmap.mmap(-1, SLACK) as pages:  # pages of its own: an allocation might reuse freed memory
        pages.write(b"1" * SLACK)
        assert resident() >= before + SLACK // 2


@pytest.mark.parametrize(
    ("sizes", "released"),
    [
        ([0, SLACK, SLACK], 0),
        ([0, SLACK + 1, 10, SLACK + 10, SLACK + 11, 0], 2),  # a size after each release
        ([SLACK, 0, SLACK + 1, 0], 1),  # what it once had does not count
        ([0, 2 * SLACK, 2 * SLACK, 3 * SLACK], 1),  # what is in use is not tried again and again
    ],
)
def test_released_when_it_has_grown(monkeypatch: pytest.MonkeyPatch, sizes: list[int], released: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory, "INTERVAL_S", 0.0)
    monkeypatch.setattr(memory, "release_free_memory", lambda: calls.append(1))
    remaining = iter(sizes)

    def size() -> int:
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None  # ends the loop, which has no end of its own

    monkeypatch.setattr(memory, "resident", size)
    with pytest.raises(EOFError):
        asyncio.run(keep_releasing())
    assert len(calls) == released
