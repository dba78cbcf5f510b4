"""Tool calls as the whole response: Llama 3.1 and 3.3."""

from __future__ import annotations

import re
from collections.abc import Collection

from trtllm_openai.chat.parsers.tool_parser import SPACE, JsonToolParser


class LlamaJson(JsonToolParser):
    """`{"name": …, "parameters": …}`, or several separated by `;`. Other JSON is content."""

    MARK = "<|python_tag|>"
    SEPARATORS = re.compile(r"[\s;,]*")

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
        found = self.hold_mark(self.MARK, self.SEPARATORS if self.calls else SPACE)
        if found is not None:
            return found
        if self.buffer.startswith("{"):
            self.begin_call(self.names.__contains__)
        else:
            self.give_up()
            self._plain = True
        return True
