"""How a format's calls are written: as text, and as parts of a structural tag that a demanded call follows.

The writing side of a format, as its `ToolParser` is the reading side: what is written here is read there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trtllm_openai.chat.parsers.call_forms import CallableTool
from trtllm_openai.chat.parsers.string_forms import NotHeldError
from trtllm_openai.chat.parsers.tag_forms import Part, separated, sequence, tag, text
from trtllm_openai.errors import InvalidRequest

NAME = "\0"
"""Stands for the tool's name in `WrittenCalls.begin`."""


class WrittenArguments(Protocol):
    """How the arguments of a call are written."""

    def write(self, arguments: dict[str, Any]) -> str:
        """The arguments as text."""

    def part(self, tool: CallableTool) -> Part:
        """The arguments of a call of `tool`."""


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON object."""

    def write(self, arguments: dict[str, Any]) -> str:
        return json.dumps(arguments, ensure_ascii=False)

    def part(self, tool: CallableTool) -> Part:
        return tool.arguments


@dataclass(frozen=True, slots=True)
class WrittenCalls:
    """`opening`, then calls, each `begin` arguments `end`, with `separator` between them, then `closing`.

    `begin` contains `NAME`. `numbered`: the number of the call follows `begin`, and this text the number.
    `trigger`: what begins calls inside of other text. `several`: a response can have more than one call.
    """

    begin: str
    arguments: WrittenArguments
    end: str
    trigger: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    numbered: str | None = None
    several: bool = True

    def write(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Calls, given as names and arguments, as the text of a response."""
        written = [
            self.begin.replace(NAME, name)
            + ("" if self.numbered is None else f"{number}{self.numbered}")
            + self.arguments.write(arguments)
            + self.end
            for number, (name, arguments) in enumerate(calls)
        ]
        return f"{self.opening}{self.separator.join(written)}{self.closing}"

    def triggers(self, tools: Sequence[CallableTool]) -> list[str]:
        """Texts that begin a call inside of other text. Each of `tags` begins with one of them."""
        return [self.trigger]

    def tags(self, tools: Sequence[CallableTool], *, parallel: bool) -> list[Part]:
        """Parts of the type `tag`: each is one call, or with `parallel` as many as one mark begins."""
        calls = [self._call(tool) for tool in tools]
        if not self.opening:
            return calls
        together = separated(calls, self.separator, parallel=parallel and self.several)
        return [tag(self.opening, together, self.closing)]

    def calls(self, tools: Sequence[CallableTool], *, parallel: bool) -> Part:
        """At least one call, and no other text."""
        tags = self.tags(tools, parallel=parallel)
        if self.opening:
            return tags[0]
        return separated(tags, self.separator, parallel=parallel and self.several)

    def _call(self, tool: CallableTool) -> Part:
        try:
            arguments = self.arguments.part(tool)
        except NotHeldError as fault:
            place = f"{tool.place}{fault.path}"
            message = f"'{place}' cannot be used: the format of the model's calls cannot hold it."
            raise InvalidRequest(message, place, "unsupported_parameter") from None
        if self.numbered is not None:
            arguments = sequence({"type": "regex", "pattern": "[0-9]{1,4}"}, text(self.numbered), arguments)
        return tag(self.begin.replace(NAME, tool.name), arguments, self.end)
