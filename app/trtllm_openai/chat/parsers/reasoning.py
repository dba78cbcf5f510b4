"""Splits reasoning between tags from the content that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtllm_openai.chat.parsers import harmony
from trtllm_openai.chat.parsers.marker import could_begin, split_at, split_at_any
from trtllm_openai.text.events import Reasoning


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The tags around a model's reasoning.

    `answer` and `answer_end`: what the model writes before and after its answer, dropped from it. `mark`:
    what its chat templates carry, if not the end tag. `tokens`: marks that can be special tokens, if not the
    tags themselves. `channels`: reasoning and calls may alternate, and
    the parser of the tool-call format of the same name reads both.
    """

    begin: str
    end: str
    answer: str = ""
    answer_end: str = ""
    mark: str = ""
    tokens: tuple[str, ...] = ()
    channels: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that the parser needs in the text."""
        if self.tokens:
            return self.tokens
        return tuple(filter(None, (self.begin.strip(), self.end, self.answer, self.answer_end)))


REASONING = {
    "harmony": ReasoningFormat(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
        mark="<|channel|>analysis",
        tokens=harmony.MARKS,
        channels=True,
    ),
    "gemma4": ReasoningFormat("<|channel>thought", "<channel|>", tokens=("<|channel>", "<channel|>")),
    "granite": ReasoningFormat("Here is my thought process:", "Here is my response:"),
    "granite_tags": ReasoningFormat(
        "<think>", "</think>", "<response>", "</response>", mark="<response></response>"
    ),
    "think": ReasoningFormat("<think>", "</think>"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "seed": ReasoningFormat("<seed:think>", "</seed:think>"),
}
"""By the name that `reasoning_parser` gives. A template's format is the first whose mark it carries."""


class ReasoningSplitter:
    """Streaming splitter. Reasoning comes first or not at all. White space next to the tags is dropped."""

    def __init__(
        self,
        form: ReasoningFormat,
        *,
        opened: bool,
        continued: bool = False,
        interrupts: tuple[str, ...] = (),
    ) -> None:
        """`opened`: the prompt ends with the opening tag, or, if `continued`, within reasoning.

        `interrupts`: marks of calls, which end reasoning without an end tag and belong to what follows.
        """
        self._form = form
        self._ends = (form.end, *interrupts)
        self._state: Literal["begin", "reasoning", "after", "content"] = "reasoning" if opened else "begin"
        self._space: list[str] = []  # dropped if a tag follows
        self._held = ""  # possible beginning of a tag
        self._any = continued  # reasoning was emitted, or there is some before this
        self._answer_end = ""  # is looked for in the answer

    @property
    def in_reasoning(self) -> bool:
        """Whether the splitter is inside the tags."""
        return self._state == "reasoning"

    def push(self, text: str) -> tuple[list[Reasoning], str]:
        """Returns the reasoning in `text`, and the text that follows it."""
        if self._state == "content":
            return [], self._answer(text) if self._answer_end else text
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
            before, mark = split_at_any(self._held, self._ends)
            self._held = self._held[len(before) :]
            found = self._reasoning(before)
            if mark is None:
                return found, ""
            self._state = "after"
            self._space.clear()
            if mark == self._form.end:
                self._held = self._held.removeprefix(mark)
        self._held = self._held.lstrip()
        if not self._held or (could_begin(self._held, self._form.answer) and self._held != self._form.answer):
            return found, ""
        if self._form.answer and self._held.startswith(self._form.answer):
            self._held = self._held.removeprefix(self._form.answer).lstrip()
            self._answer_end = self._form.answer_end
            if not self._held:
                self._state = "after"
                return found, ""
        return found, self._release()

    def finish(self) -> tuple[list[Reasoning], str]:
        """End of the text. Returns what was held back; reasoning without a closing tag is reasoning."""
        if self._state == "reasoning":
            rest, self._held = self._held, ""
            return self._reasoning(rest), ""
        if self._state == "content":
            return [], self._held
        return [], self._release(ended=True)

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

    def _release(self, *, ended: bool = False) -> str:
        self._state = "content"
        held = "".join(self._space) + self._held
        self._space.clear()
        self._held = ""
        return self._answer(held) if self._answer_end and not ended else held

    def _answer(self, text: str) -> str:
        """Drop the text that ends an answer."""
        before, after = split_at(self._held + text, self._answer_end)
        if after is None:
            self._held = (self._held + text)[len(before) :]
            return before
        self._held = self._answer_end = ""
        return before + after
