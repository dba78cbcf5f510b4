"""Parser of a chat response: reasoning first, then content and tool calls."""

from __future__ import annotations

from trtllm_openai.chat.parsers.reasoning import ReasoningSplitter
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.text.events import Content, Event, Reasoning


class ChatOutput:
    """Implements `text.events.OutputParser`. Each of the two parsers is optional."""

    def __init__(
        self,
        reasoning: ReasoningSplitter | None,
        tools: ToolParser | None,
        *,
        parallel: bool = True,
        show_reasoning: bool = True,
    ) -> None:
        """`parallel=False` drops all tool calls but the first, `show_reasoning=False` the reasoning."""
        self._shown = show_reasoning
        self._parallel = parallel
        self._reasoning = reasoning
        self._tools = tools

    @property
    def in_reasoning(self) -> bool:
        """Whether the parser is inside reasoning."""
        inside = self._reasoning is not None and self._reasoning.in_reasoning
        return inside or (self._tools is not None and self._tools.in_reasoning)

    @property
    def hides(self) -> bool:
        """Whether the parser is inside reasoning that is left out."""
        return not self._shown and self.in_reasoning

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._reasoning is not None:
            found, text = self._reasoning.push(text)
            events += found if self._shown else []
        return events + self._answer(text) if text else events

    def finish(self) -> list[Event]:
        events: list[Event] = []
        if self._reasoning is not None:
            found, text = self._reasoning.finish()
            events += found if self._shown else []
            if text:
                events += self._answer(text)
        return events + self._wanted(self._tools.finish()) if self._tools is not None else events

    def _answer(self, text: str) -> list[Event]:
        return [Content(text)] if self._tools is None else self._wanted(self._tools.push(text))

    def _wanted(self, events: list[Event]) -> list[Event]:
        if not self._shown:  # of formats whose channels alternate
            events = [event for event in events if not isinstance(event, Reasoning)]
        if self._parallel:
            return events
        return [event for event in events if getattr(event, "index", 0) == 0]
