"""Tool calls as the whole response: Llama 3.1 and 3.3, and Llama 4 with Meta's own template."""

from __future__ import annotations

import re
from collections.abc import Collection

from trtllm_openai.chat.parsers.tool_parser import SPACE, CallParser


class LlamaJson(CallParser):
    """`{"name": …, "parameters": …}`, or several separated by `;`. Other JSON is content.

    `<|python_tag|>` may precede a call; Llama 4 writes `<|python_start|>` and `<|python_end|>` around it.
    """

    MARKS = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
    BETWEEN = re.compile(r"[\s;,]*")
    SEPARATORS = re.compile(r"(?:[\s;,]|<\|python_end\|>)*")

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._plain = False  # no more calls

    def advance(self) -> bool:
        if self._plain:
            self.content(self.buffer)
            self.buffer = ""
            return False
        if self.call is not None:
            self._plain = self.feed(self.call) == "failed"
            return self.call is None
        found = [self.hold_mark(mark, self.BETWEEN if self.calls else SPACE) for mark in self.MARKS]
        if True in found:
            if found[-1]:
                self.drop_separators()
            return True
        if False in found:
            return False
        if self.buffer.startswith("{"):
            self.begin_call(self.names.__contains__)
        else:
            self.give_up()
            self._plain = True
        return True
