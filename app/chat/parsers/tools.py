"""Tool calls in the formats of the model families.

Every parser is fed text and gives events; text that is no call comes out as content. White space between the
content and a call belongs to the format and is dropped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

from app.chat.parsers.json_call import BareArguments, JsonCall
from app.chat.parsers.marker import could_begin, split_at
from app.text.events import CallStart, Content, Event


class ToolParser:
    """What the formats share: the buffer, content, and the numbering of calls.

    A subclass consumes `self.buffer` in `advance`, which is called again as long as it returns True.
    """

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the tools that may be called."""
        self.names = frozenset(names)
        self.buffer = ""
        self.calls = 0
        self.ended = False
        self._space = ""  # white space that is content only if more content follows
        self._events: list[Event] = []

    def push(self, text: str) -> list[Event]:
        """The events that `text` makes certain."""
        self.buffer += text
        while self.buffer and self.advance():
            pass
        return self._taken()

    def finish(self) -> list[Event]:
        """The events of what was held back."""
        self.ended = True
        while self.buffer and self.advance():
            pass
        self.content(self.buffer)
        self.buffer = ""
        self.leave()
        if not self.calls and self._space:
            self._events.append(Content(self._space))
        return self._taken()

    def advance(self) -> bool:
        """Consume from the buffer; False when more text is needed."""
        raise NotImplementedError

    def leave(self) -> None:
        """The answer ended: give back what is unfinished."""

    def content(self, text: str) -> None:
        """`text` is content."""
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._events.append(Content(shown))

    def emit(self, events: list[Event]) -> None:
        """Events of a call."""
        if events:
            self._space = ""
            self._events += events

    def new_call(self, accepts: Callable[[str], bool] = lambda _: True) -> JsonCall:
        """The next call, to be written as a JSON object."""
        return JsonCall(self.calls, self.call_id(), accepts)

    def call_id(self) -> str:
        """An id for a call."""
        return f"call_{secrets.token_hex(12)}"

    def feed(self, call: JsonCall) -> bool:
        """Give the buffer to `call`; True when it is over, with the rest left in the buffer."""
        was_started = call.started
        events, used = call.push(self.buffer)
        self.buffer = self.buffer[used:]
        self.calls += call.started and not was_started
        self.emit(events)
        return call.over

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


class Hermes(ToolParser):
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, and untaught models."""

    BEGIN, END = "<tool_call>", "</tool_call>"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._call: JsonCall | None = None
        self._closing = False

    def advance(self) -> bool:
        if self._closing:
            return self._skip_end()
        if self._call is None:
            before, after = split_at(self.buffer, self.BEGIN)
            self.content(before)
            if after is None:
                self.buffer = self.buffer[len(before) :]
                return False
            self.buffer = after
            self._call = self.new_call()
        if not self.feed(self._call):
            return False
        if self._call.state == "failed":
            self.content(self.BEGIN + self._call.raw)
        else:
            self._closing = True
        self._call = None
        return True

    def leave(self) -> None:
        if self._call is not None and not self._call.started:
            self.content(self.BEGIN + self._call.raw)

    def _skip_end(self) -> bool:
        self.buffer = self.buffer.lstrip()
        if could_begin(self.buffer, self.END) and not self.ended:
            return self.buffer == self.END and self._closed()
        return self._closed()

    def _closed(self) -> bool:
        cut_off = could_begin(self.buffer, self.END)
        self.buffer = "" if cut_off else self.buffer.removeprefix(self.END)
        self._closing = False
        return True


class LlamaJson(ToolParser):
    """`{"name": …, "parameters": …}` as the whole answer, maybe several with `;` between: Llama 3.1, 3.3."""

    MARK = "<|python_tag|>"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._call: JsonCall | None = None
        self._plain = False

    def advance(self) -> bool:
        if self._plain:
            self.content(self.buffer)
            self.buffer = ""
            return False
        if self._call is None and not self._begin():
            return False
        if self._call is None or not self.feed(self._call):
            return self._plain
        if self._call.state == "failed":
            self.content(self._call.raw)
            self._plain = True
        self._call = None
        return True

    def leave(self) -> None:
        if self._call is not None and not self._call.started:
            self.content(self._call.raw)

    def _begin(self) -> bool:
        """Whether it is known what comes next: a call or plain text."""
        rest = self.buffer.lstrip(" \t\r\n;," if self.calls else " \t\r\n")
        if rest.startswith(self.MARK):
            self.buffer = rest = rest.removeprefix(self.MARK).lstrip()
        elif could_begin(rest, self.MARK) and not self.ended:
            return False
        if rest.startswith("{"):
            self.buffer = rest
            self._call = self.new_call(self.names.__contains__)
        elif rest or self.ended:
            self._plain = True
        return bool(rest)


class Mistral(ToolParser):
    """`[TOOL_CALLS]` and a JSON array of calls or, since tokenizer v11, `name[ARGS]{…}` for each call."""

    BEGIN = "[TOOL_CALLS]"
    SEPARATORS = ("[CALL_ID]", "[ARGS]")

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._call: JsonCall | None = None
        self._array: JsonArray | None = None
        self._inside = False

    def call_id(self) -> str:
        alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        return "".join(secrets.choice(alphabet) for _ in range(9))  # their templates demand this form

    def advance(self) -> bool:
        if self._array is not None:
            return self._pass_to(self._array)
        if self._call is not None:
            if self.feed(self._call):
                self._call = None
            return bool(self.buffer)
        if not self._inside:
            before, after = split_at(self.buffer, self.BEGIN)
            self.content(before)
            self.buffer = self.buffer[len(before) :] if after is None else after
            self._inside = after is not None
            return self._inside
        self.buffer = self.buffer.lstrip()
        if self.buffer.startswith("["):
            if could_begin(self.buffer, self.BEGIN) and self.buffer != self.BEGIN and not self.ended:
                return False
            if not self.buffer.startswith(self.BEGIN):
                self._array = JsonArray(self.names, self.calls, self.call_id)
                return True
            self.buffer = self.buffer.removeprefix(self.BEGIN)
            return bool(self.buffer)
        return self._named()

    def leave(self) -> None:
        if self._array is not None:
            self._events += self._array.finish()
            self.calls = self._array.calls

    def _pass_to(self, array: JsonArray) -> bool:
        text, self.buffer = self.buffer, ""
        self.emit(array.push(text))
        self.calls = array.calls
        return False

    def _named(self) -> bool:
        """`name[ARGS]{`: only the arguments are JSON."""
        name, brace, rest = self.buffer.partition("{")
        if not brace:
            return False
        for separator in self.SEPARATORS:
            name = name.partition(separator)[0]
        if not name.strip():
            self._inside = False
            self.content(self.BEGIN)
            return True
        self._call = BareArguments(self.calls, "")
        self.emit([CallStart(self.calls, self.call_id(), name.strip())])
        self.calls += 1
        self.buffer = brace + rest
        return True


class JsonArray(ToolParser):
    """`[{"name": …, "arguments": …}, …]`, which a grammar makes sure of when a call is required."""

    def __init__(
        self, names: Collection[str], first: int = 0, make_id: Callable[[], str] | None = None
    ) -> None:
        super().__init__(names)
        self.calls = first
        self._make_id = make_id
        self._call: JsonCall | None = None
        self._open = False
        self._closed = False

    def call_id(self) -> str:
        return self._make_id() if self._make_id is not None else super().call_id()

    def advance(self) -> bool:
        if self._call is not None:
            if not self.feed(self._call):
                return False
            if self._call.state == "failed":
                self.content(self._call.raw)
            self._call = None
            return True
        if self._closed:
            self.content(self.buffer)
            self.buffer = ""
            return False
        self.buffer = self.buffer.lstrip(" \t\r\n,")
        if not self.buffer:
            return False
        if self.buffer[0] == "{":
            self._call = self.new_call()
        elif self.buffer[0] == "[" and not self._open:
            self._open = True
            self.buffer = self.buffer[1:]
        elif self.buffer[0] == "]":
            self._closed = True
            self.buffer = self.buffer[1:]
        else:
            self._closed = True
        return True

    def leave(self) -> None:
        if self._call is not None and not self._call.started:
            self.content(self._call.raw)
