"""Events of a parsed response: content, reasoning and tool calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(slots=True)
class Reasoning:
    """Text inside reasoning tags."""

    text: str


@dataclass(slots=True)
class CallStart:
    """Start of a call of the tool `name`; `index` numbers the calls of a response from 0."""

    index: int
    id: str
    name: str


@dataclass(slots=True)
class CallArguments:
    """Next fragment of a call's arguments, as JSON source text."""

    index: int
    text: str


Event = Content | Reasoning | CallStart | CallArguments


class OutputParser(Protocol):
    """Streaming parser of a response. Its events, once merged, do not depend on how the text is chunked."""

    @property
    def in_reasoning(self) -> bool:
        """Whether the parser is inside reasoning tags."""

    @property
    def hides(self) -> bool:
        """Whether the parser is inside of text that is left out, with its log-probabilities."""

    def push(self, text: str) -> list[Event]:
        """Parse the next text. Returns the events that no later text can change."""

    def finish(self) -> list[Event]:
        """End of the text. Returns the events for everything that was held back."""


def merged(events: list[Event]) -> list[Event]:
    """Merge adjacent events of the same kind."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if last is not None and _joins(last, event):
            last.text += event.text  # type: ignore[union-attr]
        else:
            result.append(event)
    return result


def _joins(last: Event, event: Event) -> bool:
    if isinstance(last, CallArguments):
        return isinstance(event, CallArguments) and last.index == event.index
    return not isinstance(last, CallStart) and type(last) is type(event)
