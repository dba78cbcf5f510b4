"""Thinking between tags, split from the answer that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.chat.parsers.marker import could_begin, split_at
from app.text.events import Reasoning


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The tags around a model's thinking."""

    begin: str
    end: str


REASONING = {
    "think": ReasoningFormat("<think>", "</think>"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "seed": ReasoningFormat("<seed:think>", "</seed:think>"),
}


class ReasoningSplitter:
    """Thinking comes first or not at all. White space next to the tags belongs to the format."""

    def __init__(self, form: ReasoningFormat, *, opened: bool) -> None:
        """`opened`: the prompt ends inside the thinking already."""
        self._form = form
        self._state: Literal["begin", "reasoning", "after", "content"] = "reasoning" if opened else "begin"
        self._held = ""
        self._any = False  # thinking was passed on

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text is thinking."""
        return self._state == "reasoning"

    def push(self, text: str) -> tuple[list[Reasoning], str]:
        """The thinking in `text`, and what is not thinking."""
        if self._state == "content":
            return [], text
        self._held += text
        found: list[Reasoning] = []
        if self._state == "begin":
            rest = self._held.lstrip()
            if rest.startswith(self._form.begin):
                self._state, self._held = "reasoning", rest.removeprefix(self._form.begin)
            elif could_begin(rest, self._form.begin):
                return [], ""
            else:
                return [], self._release()
        if self._state == "reasoning":
            before, after = split_at(self._held, self._form.end)
            shown = before.rstrip()
            self._held = self._held[len(shown) :] if after is None else after
            if not self._any:
                shown = shown.lstrip()
            if shown:
                self._any = True
                found.append(Reasoning(shown))
            if after is None:
                return found, ""
            self._state = "after"
        self._held = self._held.lstrip()
        return found, self._release() if self._held else ""

    def finish(self) -> tuple[list[Reasoning], str]:
        """What was held back: unfinished thinking is thinking."""
        if self._state == "reasoning":
            rest, self._held = self._held.rstrip() if self._any else self._held.strip(), ""
            return ([Reasoning(rest)] if rest else []), ""
        return [], self._release() if self._state == "begin" else ""

    def _release(self) -> str:
        self._state = "content"
        held, self._held = self._held, ""
        return held
