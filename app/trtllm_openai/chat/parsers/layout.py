"""Parser of the formats that a declaration describes: marks, the head of a call, its arguments, end marks.

A new format of this kind is a `CallLayout`. The same declaration says how a demanded call is written
(`chat.parsers.written_calls`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from trtllm_openai.chat.parsers.head import Mark, Terminal, read_head, write_head
from trtllm_openai.chat.parsers.json_array import CallList
from trtllm_openai.chat.parsers.json_call import BareArguments, State
from trtllm_openai.chat.parsers.marker import could_begin, split_at_any
from trtllm_openai.chat.parsers.tool_parser import CallReader
from trtllm_openai.chat.parsers.written_calls import NAME, JsonText, WrittenArguments, WrittenCalls
from trtllm_openai.text.events import CallArguments, CallStart


class Arguments(WrittenArguments, Protocol):
    """How the arguments of a call are written and read, for formats that give its name outside of them."""

    def reader(self, index: int, schema: Any) -> CallReader:
        """Reads the arguments of call number `index`, whose tool has parameters of this schema."""


@dataclass(frozen=True, slots=True)
class JsonArguments(JsonText):
    """A JSON object."""

    def reader(self, index: int, schema: Any) -> CallReader:
        return BareArguments(index)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Not only the arguments: a JSON object with the name and the arguments, or an array of such objects.

    `listed`: models of this format write the array. `before`: white space that they write before a single
    object.
    """

    listed: bool = False
    before: str = ""


@dataclass(frozen=True, slots=True)
class CallLayout:
    """How the models of one family write tool calls.

    For reading: `begin` are the marks with which calls begin, none of which contains another; `head` is
    everything from the first of them to the arguments; `end` are marks after a call or after all of them, in
    this order, each of which may be missing; `inner` are marks inside of the arguments.
    For writing: `opening` is what stands once before all calls (a part of `head`, or a list's beginning),
    `end_written` follows each call, `separator` is between them, `closing` after the last.
    """

    begin: tuple[str, ...]
    head: tuple[Terminal, ...]
    arguments: Arguments | JsonObject
    end: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    end_written: str = ""
    separator: str = ""
    opening: str = ""
    closing: str = ""

    @property
    def form(self) -> WrittenCalls:
        """How these calls are written."""
        begin, numbered = write_head(self.head, NAME)
        begin, end = begin.removeprefix(self.opening), self.end_written
        arguments: WrittenArguments = JsonText()
        if isinstance(self.arguments, JsonObject):
            mark = "" if self.arguments.listed else begin + self.arguments.before
            begin, end = f'{mark}{{"name": "{NAME}", "arguments": ', f"}}{end}"
        else:
            arguments = self.arguments
        return WrittenCalls(
            begin, arguments, end, self.begin[0], self.opening, self.separator, self.closing, numbered
        )

    @property
    def markers(self) -> tuple[str, ...]:
        """Marks that may be special tokens, which the parser needs in the text."""
        heads = [terminal.text for terminal in self.head if isinstance(terminal, Mark)]
        return tuple(dict.fromkeys((*self.begin, *heads, *self.end, *self.inner)))


class LayoutParser(CallList):
    """Reads calls as `LAYOUT` describes them, with text before, between and after."""

    LAYOUT: ClassVar[CallLayout]

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._mark = ""  # the mark at the beginning of the buffer
        self._ends: tuple[str, ...] = ()  # marks that may follow
        self._ids: set[str] = set()  # those that the model gave

    def outside(self) -> bool:
        if self._ends:
            return self._close()
        if self._mark:
            return self._read_head()
        before, mark = split_at_any(self.buffer, self.LAYOUT.begin)
        self.content(before)
        self.buffer = self.buffer[len(before) :]
        self._mark = mark or ""
        return mark is not None

    def call_ended(self, state: State) -> None:
        if self._inside:
            super().call_ended(state)
        elif state == "done":
            self._ends = self.LAYOUT.end

    def leave_array(self) -> None:
        super().leave_array()
        if self._after_call:
            self._ends = self.LAYOUT.end

    def _read_head(self) -> bool:
        head = read_head(self.LAYOUT.head, self.buffer, ended=self.ended)
        if head == "more":
            return False
        mark, self._mark = self._mark, ""
        if head == "no":
            self.hold_next(len(mark))
            self.give_up()
            return True
        arguments = self.LAYOUT.arguments
        if isinstance(arguments, JsonObject):
            self.hold_next(head.length)
            if self.buffer.startswith("["):
                self.enter()
            else:
                self.begin_call()
            return True
        self.buffer = self.buffer[head.length :]
        self.emit([CallStart(self.calls, self._id(head.id), head.name)])
        if isinstance(arguments, JsonArguments) and not self.buffer.startswith("{"):
            self.emit([CallArguments(self.calls, "{}")])
            self._ends = self.LAYOUT.end
        else:
            self.call = arguments.reader(self.calls, self.schemas.get(head.name))
        self.calls += 1
        return True

    def _id(self, given: str | None) -> str:
        """The id that the model gave, unless it is used already, else a new one."""
        if given is None or given in self._ids:
            return self.call_id()
        self._ids.add(given)
        return given

    def _close(self) -> bool:
        """Drop end marks, which can be missing, or truncated at the end of the response."""
        self.hold_space()
        for place, mark in enumerate(self._ends, 1):
            if self.buffer.startswith(mark):
                self.buffer = self.buffer[len(mark) :]
                self.drop_separators()
                self._ends = self._ends[place:]
                return True
        if any(could_begin(self.buffer, mark) for mark in self._ends):
            if not self.ended:
                return False
            self.buffer = ""
            self.drop_separators()
        self._ends = ()
        return True
