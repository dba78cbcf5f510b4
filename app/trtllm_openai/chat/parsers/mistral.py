"""Tool calls after a marker: Mistral's models."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection

from trtllm_openai.chat.parsers.json_array import CallList
from trtllm_openai.chat.parsers.json_call import BareArguments
from trtllm_openai.chat.parsers.marker import split_at
from trtllm_openai.text.events import CallStart

ID_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HEAD = re.compile(r"([\w.-]{1,128})(?:\[CALL_ID\][\w-]{0,64})?(\[ARGS\])?\s{0,8}(?=\{)")
HEAD_PART = re.compile(r"[\w.\-\[\]\s]{0,256}")
"""Matches the possible beginning of a call's head. The limit exceeds the length of any head."""


class Mistral(CallList):
    """`[TOOL_CALLS]` and a JSON array of calls or, since tokenizer v11, `name[ARGS]{…}` for each call."""

    BEGIN = "[TOOL_CALLS]"
    INNER = ("[CALL_ID]", "[ARGS]")

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._marked = False  # the marker was the last text read

    def call_id(self) -> str:
        return "".join(secrets.choice(ID_ALPHABET) for _ in range(9))  # the form that their templates require

    def outside(self) -> bool:
        if not self._marked:
            before, after = split_at(self.buffer, self.BEGIN)
            self.content(before)
            self.buffer = self.buffer[len(before) :]
            self._marked = after is not None
            if self._marked:
                self.hold_next(len(self.BEGIN))
            return self._marked
        found = self.hold_mark(self.BEGIN)
        if found is not None:
            return found
        if not self.buffer.startswith("["):
            return self._begin_named()
        self._marked = False
        self.enter()
        return True

    def _begin_named(self) -> bool:
        """`name[ARGS]{`: only the arguments are JSON. Without `[ARGS]` there must be a tool of that name."""
        if HEAD_PART.fullmatch(self.buffer) and not self.ended:
            return False
        self._marked = False
        head = HEAD.match(self.buffer)
        if head is None or not (head[2] or head[1] in self.names):
            self.give_up()
            return True
        self.buffer = self.buffer[head.end() :]
        self.call = BareArguments(self.calls)
        self.emit([CallStart(self.calls, self.call_id(), head[1])])
        self.calls += 1
        return True
