"""Freed memory goes back to the system."""

import ctypes
from typing import Any

import pytest

from trtllm_openai.processes.memory import release_free_memory


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
