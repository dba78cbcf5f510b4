"""What an answer consists of when it is more than text: reasoning, content, calls of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(slots=True)
class Reasoning:
    """Text of the model's thinking."""

    text: str


@dataclass(slots=True)
class CallStart:
    """A call of the tool `name` begins; `index` counts the calls of the answer."""

    index: int
    id: str
    name: str


@dataclass(slots=True)
class CallArguments:
    """The next piece of a call's arguments, as JSON source."""

    index: int
    text: str


Event = Content | Reasoning | CallStart | CallArguments


class OutputParser(Protocol):
    """Takes an answer apart while it is written. The events do not depend on how the text is cut."""

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text belongs to the model's thinking."""

    def push(self, text: str) -> list[Event]:
        """What the next text says for certain."""

    def finish(self) -> list[Event]:
        """What was held back, now that no more text comes. Nothing is lost."""


def merged(events: list[Event]) -> list[Event]:
    """Neighbours of the same kind made one."""
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
