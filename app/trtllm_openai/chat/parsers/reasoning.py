"""Splits reasoning between tags from the content that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtllm_openai.chat.parsers.marker import could_begin, split_at
from trtllm_openai.text.events import Reasoning


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The tags around a model's reasoning."""

    begin: str
    end: str


REASONING = {
    "think": ReasoningFormat("<think>", "</think>"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "seed": ReasoningFormat("<seed:think>", "</seed:think>"),
}


class ReasoningSplitter:
    """Streaming splitter. Reasoning comes first or not at all. White space next to the tags is dropped."""

    def __init__(self, form: ReasoningFormat, *, opened: bool) -> None:
        """`opened`: the prompt ends with the opening tag."""
        self._form = form
        self._state: Literal["begin", "reasoning", "after", "content"] = "reasoning" if opened else "begin"
        self._space: list[str] = []  # dropped if a tag follows
        self._held = ""  # possible beginning of a tag
        self._any = False  # reasoning was emitted

    @property
    def in_reasoning(self) -> bool:
        """Whether the splitter is inside the tags."""
        return self._state == "reasoning"

    def push(self, text: str) -> tuple[list[Reasoning], str]:
        """Returns the reasoning in `text`, and the text that follows it."""
        if self._state == "content":
            return [], text
        self._held += text
        found: list[Reasoning] = []
        if self._state == "begin":
            rest = self._held.lstrip()
            self._space.append(self._held[: len(self._held) - len(rest)])
            self._held = rest
            if rest.startswith(self._form.begin):
                self._state, self._held = "reasoning", rest.removeprefix(self._form.begin)
                self._space.clear()
            elif could_begin(rest, self._form.begin):
                return [], ""
            else:
                return [], self._release()
        if self._state == "reasoning":
            before, after = split_at(self._held, self._form.end)
            self._held = self._held[len(before) :] if after is None else after
            found = self._reasoning(before)
            if after is None:
                return found, ""
            self._state = "after"
            self._space.clear()
        self._held = self._held.lstrip()
        return found, self._release() if self._held else ""

    def finish(self) -> tuple[list[Reasoning], str]:
        """End of the text. Returns what was held back; reasoning without a closing tag is reasoning."""
        if self._state == "reasoning":
            rest, self._held = self._held, ""
            return self._reasoning(rest), ""
        return [], self._release() if self._state == "begin" else ""

    def _reasoning(self, text: str) -> list[Reasoning]:
        """Emit reasoning, but hold back white space at its end, which is dropped before the closing tag."""
        stripped = text.rstrip()
        found = []
        if stripped:
            piece = "".join(self._space) + stripped
            found.append(Reasoning(piece if self._any else piece.lstrip()))
            self._any = True
            self._space.clear()
        self._space.append(text[len(stripped) :])
        return found

    def _release(self) -> str:
        self._state = "content"
        held = "".join(self._space) + self._held
        self._space.clear()
        self._held = ""
        return held
