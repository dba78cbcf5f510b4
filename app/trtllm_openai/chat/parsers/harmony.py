"""OpenAI's harmony, the format of gpt-oss: a response is several messages, each on a channel.

`<|channel|>analysis<|message|>…<|end|>` is reasoning, `final` and `commentary` are content, and a message to
`functions.NAME`, on whatever channel, is a call with JSON arguments. Reasoning and calls may alternate, so
that one parser reads both. Source: https://cookbook.openai.com/articles/openai-harmony and gpt-oss's chat
template.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from trtllm_openai.chat.parsers.json_call import BareArguments
from trtllm_openai.chat.parsers.marker import could_begin, split_at_any
from trtllm_openai.chat.parsers.tool_parser import CallParser
from trtllm_openai.chat.parsers.written_calls import NAME, JsonText, WrittenCalls
from trtllm_openai.text.events import CallArguments, CallStart, Reasoning

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKS = (START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS)
HEADER_BEGINS = (START, CHANNEL, "to=")
BODY_ENDS = (*ENDS, START, CHANNEL)
"""The last two stand for a missing end."""
LONGEST_HEADER = 512
RECIPIENT = re.compile(r"to=([^\s<]+)")
ANALYSIS = re.compile(r"<\|channel\|>\s*analysis\b")
FUNCTIONS = "functions."
FORM = WrittenCalls(
    begin=f"<|channel|>commentary to={FUNCTIONS}{NAME} <|constrain|>json<|message|>",
    arguments=JsonText(),
    end="",  # the model ends its turn with `<|call|>`, an end-of-sequence token
    trigger=f"<|channel|>commentary to={FUNCTIONS}",
    several=False,
)


class Harmony(CallParser):
    """The messages of one response. Text without a header is content, and so is a header that is none.

    Several messages of reasoning, or of content, are joined by a line break.
    """

    def __init__(self, names: Collection[str], *, reasons: bool = True, opened: bool = False) -> None:
        """`reasons`: the analysis channel is reasoning, else it is content.

        `opened`: the prompt ends within a message of analysis. One that ends within another needs no telling.
        """
        super().__init__(names)
        self._reasons = reasons
        self._state: Literal["between", "reasoning", "content", "call", "after_call"] = "between"
        self._name = ""  # of the function whose arguments come next
        self._said: set[str] = set()  # kinds of messages so far
        self._break = ""  # goes before the next text
        if opened:
            self._open("<|channel|>analysis<|message|>")

    @property
    def in_reasoning(self) -> bool:
        """Whether the parser is inside a message of reasoning."""
        return self._state == "reasoning"

    def advance(self) -> bool:
        if self.call is not None:
            self.feed(self.call)
            return self.call is None
        match self._state:
            case "between":
                return self._read_header()
            case "call":
                return self._begin_arguments()
            case "after_call":
                return self._end_call()
            case _:
                return self._read_body()

    def _read_header(self) -> bool:
        """Between messages: read everything up to `<|message|>`."""
        self.hold_space()
        if not self.buffer:
            return False
        if not any(self.buffer.startswith(one) for one in HEADER_BEGINS):
            if not self.ended and any(could_begin(self.buffer, one) for one in HEADER_BEGINS):
                return False
            self.give_up()
            self._state = "content"
            return True
        header, found, rest = self.buffer.partition(MESSAGE)
        cut = self.ended and header.startswith("to=")  # may be text
        broken = len(header) > LONGEST_HEADER or any(mark in header for mark in ENDS) or (cut and not found)
        if not found and not broken:
            if not self.ended:
                return False
            self.buffer = ""  # truncated
            return False
        if broken:
            self.hold_next(len(START))
            self.give_up()
            self._state = "content"
            return True
        self._held.clear()
        self.buffer = rest
        self._open(header + found)
        return True

    def _open(self, header: str) -> None:
        """Begin a message."""
        recipient = RECIPIENT.search(header)
        if recipient is not None:
            name = recipient[1].removeprefix(FUNCTIONS)
            if self.names and name and (name != recipient[1] or name in self.names):
                self._state, self._name = "call", name
                self.hold(header)
                return
        self._state = "reasoning" if ANALYSIS.search(header) and self._reasons else "content"
        self._break = "\n" if self._state in self._said else ""
        if recipient is not None and self._state == "content":  # to a tool that the client does not have
            self.content(self._break + header)
            self._break = ""
            self._said.add("content")

    def _read_body(self) -> bool:
        before, mark = split_at_any(self.buffer, BODY_ENDS)
        self.buffer = self.buffer[len(before) :]
        if before:
            text, self._break = self._break + before, ""
            self._said.add(self._state)
            if self._state == "reasoning":
                self.emit_reasoning(text)
            else:
                self.content(text)
        if mark is None:
            return False
        if mark in ENDS:
            self.buffer = self.buffer[len(mark) :]
        self.give_up()
        self._state = "between"
        return True

    def emit_reasoning(self, text: str) -> None:
        """Emit reasoning. Nothing is held back within it."""
        self._events.append(Reasoning(text))

    def _begin_arguments(self) -> bool:
        self.hold_space()
        empty = any(self.buffer.startswith(mark) for mark in ENDS)
        if self.buffer.startswith("{") or empty:
            self.emit([CallStart(self.calls, self.call_id(), self._name)])
            if empty:
                self.emit([CallArguments(self.calls, "{}")])
            else:
                self.call = BareArguments(self.calls)
            self.calls += 1
            self._state = "after_call"
            return True
        if not self.buffer or (not self.ended and any(could_begin(self.buffer, mark) for mark in ENDS)):
            return False
        self.give_up()
        self._state = "content"
        return True

    def _end_call(self) -> bool:
        """Drop the end of a call's message, which can be missing, or truncated at the end of the response."""
        self.hold_space()
        mark = next((mark for mark in ENDS if self.buffer.startswith(mark)), "")
        if not mark and any(could_begin(self.buffer, one) for one in ENDS):
            if not self.ended:
                return False
            mark = self.buffer
        if mark:
            self.buffer = self.buffer[len(mark) :]
            self.drop_separators()
        self._state = "between"
        return True
