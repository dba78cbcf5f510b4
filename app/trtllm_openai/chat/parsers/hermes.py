"""Tool calls between tags: Hermes, Qwen 2.5 and 3, and models without a format of their own."""

from __future__ import annotations

from collections.abc import Collection

from trtllm_openai.chat.parsers.marker import could_begin, split_at
from trtllm_openai.chat.parsers.tool_parser import JsonToolParser


class Hermes(JsonToolParser):
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, with text before, between and after."""

    BEGIN, END = "<tool_call>", "</tool_call>"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._closing = False  # the call is complete except for its end tag

    def advance(self) -> bool:
        if self.call is not None:
            self._closing = self.feed(self.call) == "done"
            return self.call is None
        if self._closing:
            return self._close()
        before, after = split_at(self.buffer, self.BEGIN)
        self.content(before)
        self.buffer = self.buffer[len(before) :]
        if after is None:
            return False
        self.hold_next(len(self.BEGIN))
        self.begin_call()
        return True

    def _close(self) -> bool:
        """Drop the end tag, which can be missing, or truncated at the end of the response."""
        self.hold_space()
        whole = self.buffer.startswith(self.END)
        if could_begin(self.buffer, self.END) and not whole and not self.ended:
            return False
        if whole or could_begin(self.buffer, self.END):
            self.buffer = self.buffer[len(self.END) :]
            self.drop_separators()
        self._closing = False
        return True
