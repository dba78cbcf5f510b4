"""Base of the readers of arguments that are not JSON: text comes in, and goes out as JSON step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trtllm_openai.text.events import CallArguments, Event


class ArgumentsReader(ABC):
    """A `CallReader` of the arguments of call number `index`. They are over in the state `done`."""

    __slots__ = ("_index", "started", "state")

    state: str

    def __init__(self, index: int) -> None:
        self._index = index
        self.started = True

    @property
    def over(self) -> bool:
        """Whether the arguments take no more text."""
        return self.state == "done"

    @property
    @abstractmethod
    def _place(self) -> str:
        """The reader's state. A step that changes neither this nor the text needs more text."""

    @abstractmethod
    def _step(self, text: str, pieces: list[str]) -> str:
        """Parse the beginning of `text`. Returns what is left; all of it if more is needed."""

    def push(self, text: str) -> tuple[list[Event], int]:
        """Parse `text`. Returns the events and the number of characters consumed."""
        pieces: list[str] = []
        rest = text
        while rest and not self.over:
            place, length = self._place, len(rest)
            rest = self._step(rest, pieces)
            if (self._place, len(rest)) == (place, length):
                break
        return self._events(pieces), len(text) - len(rest)

    def _events(self, pieces: list[str]) -> list[Event]:
        text = "".join(pieces)
        return [CallArguments(self._index, text)] if text else []
