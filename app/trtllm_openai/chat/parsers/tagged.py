"""Arguments between tags, each with its name: Qwen3-Coder and GLM.

A value is text; the tool's schema says whether it is a string. A string is emitted as it arrives, anything
else when it is complete.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from trtllm_openai.chat.parsers.arguments_reader import ArgumentsReader
from trtllm_openai.chat.parsers.call_forms import CallableTool
from trtllm_openai.chat.parsers.marker import could_begin, split_at
from trtllm_openai.chat.parsers.string_forms import check, check_object, expanded, listed, string
from trtllm_openai.chat.parsers.tag_forms import (
    ANY_TEXT,
    Part,
    either,
    fields,
    json_part,
    sequence,
    tag,
    text,
)
from trtllm_openai.chat.parsers.values import as_json, property_types, string_piece, types_of
from trtllm_openai.text.events import Event

SPACE = re.compile(r"\s*")
LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """`begin` name `middle` value `end`, for each argument.

    `line`: a value stands on lines of its own, and a line break at each of its ends belongs to the tags.
    White space is allowed at the line breaks of `middle`, and between arguments; `between` is the usual one.
    """

    begin: str
    middle: str
    end: str
    line: bool = False
    between: str = ""

    def reader(self, index: int, schema: Any) -> TaggedReader:
        return TaggedReader(self, index, schema)

    def write(self, arguments: dict[str, Any]) -> str:
        """The arguments as text: strings as they are, anything else as JSON."""
        return "".join(
            self._begin(name)
            + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            + self._end
            for name, value in arguments.items()
        )

    def part(self, tool: CallableTool) -> Part:
        """The arguments of a call of `tool`. A schema that names no properties leaves them free.

        Raises `NotHeldError` for what cannot be held.
        """
        check_object(tool.schema, tool.schema, "")
        return fields(tool.schema, self._field) or ANY_TEXT

    def _field(self, name: str, schema: Any, root: Any) -> Part:
        types, path = types_of(schema, root), f".properties.{name}"
        whole = expanded(schema, root)
        if types and "string" not in types:
            return sequence(text(self._begin(name)), json_part(schema, root), text(self._end))
        if types == {"string"}:
            return string(self._begin(name), whole, self._end, root, path)
        if values := self._read_back(listed(whole), types):
            return either(*(text(f"{self._begin(name)}{one}{self._end}") for one in values))
        check(whole, frozenset({"type"}), root, path)
        return tag(self._begin(name), ANY_TEXT, self._end)

    def _read_back(self, values: list[Any] | None, types: frozenset[str]) -> list[str]:
        """The texts of listed values, without those that would be read as another value."""
        found = []
        for value in values or ():
            written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if self._end not in written and json.loads(as_json(written, types)) == value:
                found.append(written)
        return found

    def _begin(self, name: str) -> str:
        return f"{self.between}{self.begin}{name}{self.middle}" + ("\n" if self.line else "")

    @property
    def _end(self) -> str:
        return ("\n" if self.line else "") + self.end


State = Literal["between", "name", "middle", "string", "value", "done"]


class TaggedReader(ArgumentsReader):
    """Reads the arguments of one call, up to the first text that is neither a tag nor white space."""

    __slots__ = (
        "_form",
        "_given",
        "_schema",
        "_source",
        "_started_value",
        "_types",
    )

    def __init__(self, form: TaggedArguments, index: int, schema: Any) -> None:
        self._form = form
        super().__init__(index)
        self._schema = schema
        self._given = 0  # arguments
        self._source: list[str] = []  # text of a value that is not a string
        self._types: frozenset[str] = frozenset()
        self._started_value = False  # the line break before a value was met or is not there
        self.state: State = "between"

    @property
    def _place(self) -> str:
        return self.state

    def finish(self, rest: str) -> list[Event]:
        """End of the text: emit the part of an argument that is there."""
        if self.state == "string":
            return self._events([string_piece(rest)])
        if self.state == "value":
            text = "".join([*self._source, rest])
            return self._events([as_json(text, self._types)] if text.strip() else [])
        return []

    def _step(self, text: str, pieces: list[str]) -> str:
        match self.state:
            case "between":
                return self._between(text, pieces)
            case "name":
                return self._name(text, pieces)
            case "string":
                return self._string(text, pieces)
            case _:
                return self._value(text, pieces)

    def _between(self, text: str, pieces: list[str]) -> str:
        found = SPACE.match(text)
        rest = text[found.end() :] if found else text
        if rest.startswith(self._form.begin):
            self.state = "name"
            return rest[len(self._form.begin) :]
        if not could_begin(rest, self._form.begin):
            self.state = "done"
            pieces.append("}" if self._given else "{}")
        return rest

    def _name(self, text: str, pieces: list[str]) -> str:
        first, *others = self._form.middle.split("\n")
        name, found, rest = text.partition(first)
        if not found:
            if len(text) > LONGEST_NAME:
                self.state = "done"
                pieces.append("}" if self._given else "{}")
            return text
        for part in others:
            stripped = rest.lstrip()
            if not stripped.startswith(part):
                if could_begin(stripped, part) and len(rest) <= LONGEST_NAME:
                    return text
                stripped = rest  # without the mark, what follows is the value
                part = ""
            rest = stripped[len(part) :]
        pieces.append(f"{', ' if self._given else '{'}{json.dumps(name.strip(), ensure_ascii=False)}: ")
        self._given += 1
        self._types = property_types(self._schema, name.strip())
        self._started_value = not self._form.line
        self._source.clear()
        self.state = "string" if self._types == {"string"} else "value"
        if self.state == "string":
            pieces.append('"')
        return rest

    def _text(self, text: str) -> tuple[str, str | None]:
        """The value's text in `text`, and what follows its end tag; see `split_at`."""
        if not self._started_value:
            self._started_value = True
            if text[0] == "\n":
                text = text[1:]
        before, after = split_at(text, self._form.end)
        if self._form.line and before.endswith("\n"):
            if after is None:
                return before[:-1], None  # may belong to the end tag
            before = before[:-1]
        return before, after

    def _string(self, text: str, pieces: list[str]) -> str:
        dropped = not self._started_value and text[0] == "\n"
        before, after = self._text(text)
        pieces.append(string_piece(before))
        if after is None:
            return text[len(before) + dropped :]
        pieces.append('"')
        self.state = "between"
        return after

    def _value(self, text: str, pieces: list[str]) -> str:
        before, after = split_at(text, self._form.end)
        self._source.append(before)
        if after is None:
            return text[len(before) :]
        pieces.append(as_json("".join(self._source), self._types))
        self.state = "between"
        return after
