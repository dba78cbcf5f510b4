"""Arguments between braces with bare names and quotes of their own: Gemma.

`{city:<escape>Seoul<escape>,days:3,where:{x:1.5}}` is rewritten as JSON while it arrives. What is written
is valid JSON whatever is read: commas and colons come from the order of names and values.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from trtllm_openai.chat.parsers.arguments_reader import ArgumentsReader
from trtllm_openai.chat.parsers.call_forms import CallableTool
from trtllm_openai.chat.parsers.marker import could_begin, split_at
from trtllm_openai.chat.parsers.tag_forms import (
    ANY_TEXT,
    Part,
    either,
    fields,
    grammar,
    json_part,
    sequence,
    tag,
    text,
    texts,
)
from trtllm_openai.chat.parsers.values import as_json, string_piece, types_of
from trtllm_openai.text.events import Event

NAME = re.compile(r"[^{}\[\],:\"<]+")
VALUE = re.compile(r"[^{}\[\],\"<]+")
IN_JSON_STRING = re.compile(r'[^"\\]+')
ESCAPES = '"\\/bfnrtu'
ANY_VALUE = r"""
value ::= string | number | "true" | "false" | "null" | array | object
string ::= QUOTE [^<]* QUOTE
number ::= "-"? [0-9]+ ("." [0-9]+)?
array ::= "[" (value ("," value)*)? "]"
object ::= "{" (pair ("," pair)*)? "}"
pair ::= [A-Za-z0-9_-]+ ":" value
"""
CLOSING = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class BracedArguments:
    """`quote` stands at both ends of a string, in which nothing is escaped; JSON's quotes are read too."""

    quote: str

    def reader(self, index: int, schema: Any) -> BracedReader:
        return BracedReader(self.quote, index)

    def write(self, arguments: dict[str, Any]) -> str:
        """The arguments as text, names bare at every depth."""
        return self._value(arguments)

    def _value(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, dict):
            return "{" + ",".join(f"{name}:{self._value(one)}" for name, one in value.items()) + "}"
        if isinstance(value, list):
            return f"[{','.join(map(self._value, value))}]"
        return json.dumps(value)

    def part(self, tool: CallableTool) -> Part:
        """The arguments of a call of `tool`. Values inside of arrays have any type."""
        return self._object(tool.schema)

    def _object(self, schema: Any) -> Part:
        found = fields(schema, self._field, ",")
        return self._any("object") if found is None else sequence(text("{"), found, text("}"))

    def _any(self, rule: str) -> Part:
        return grammar(f"root ::= {rule}\n{ANY_VALUE.replace('QUOTE', json.dumps(self.quote))}")

    def _field(self, name: str, schema: Any, root: Any) -> Part:
        return sequence(text(f"{name}:"), self._typed(schema, root))

    def _typed(self, schema: Any, root: Any) -> Part:
        types = types_of(schema, root)
        if types == {"string"}:
            if listed := texts(schema):
                return either(*(text(f"{self.quote}{one}{self.quote}") for one in listed))
            return tag(self.quote, ANY_TEXT, self.quote)
        if types == {"object"} and isinstance(schema.get("properties"), dict):
            return self._object({**root, **schema} if isinstance(root, dict) else schema)
        if types and types <= {"integer", "number", "boolean", "null"}:
            return json_part(schema, root)
        return self._any("value")


class BracedReader(ArgumentsReader):
    """Reads the arguments of one call, up to the brace that closes them or to another `<` than a quote."""

    __slots__ = ("_after", "_bare", "_escaped", "_inside", "_open", "_quote")

    def __init__(self, quote: str, index: int) -> None:
        self._quote = quote
        super().__init__(index)
        self._open: list[str] = []  # the brackets that will close what is open
        self._after: Literal["open", "name", "value"] = "open"
        self._inside: Literal["", "string", "json", "bare"] = ""
        self._bare: list[str] = []
        self._escaped = False
        self.state: Literal["in", "done"] = "in"

    @property
    def _place(self) -> str:
        return self._inside

    def finish(self, rest: str) -> list[Event]:
        """End of the text: emit the part of a string that is there, or a last number or word."""
        pieces: list[str] = []
        if self._inside == "string":
            pieces.append(string_piece(rest))
        elif self._inside == "bare" and not self._expects_name:
            self._end_bare(pieces)
        return self._events(pieces)

    @property
    def _expects_name(self) -> bool:
        return self._open[-1:] == ["}"] and self._after != "name"

    def _step(self, text: str, pieces: list[str]) -> str:
        match self._inside:
            case "string":
                return self._in_string(text, pieces)
            case "json":
                return self._in_json_string(text, pieces)
            case "bare":
                return self._in_bare(text, pieces)
        stripped = text.lstrip()
        if len(stripped) < len(text):
            return stripped
        if text[0] == "<":
            if text.startswith(self._quote):
                self._begin(pieces)
                pieces.append('"')
                self._inside = "string"
                return text[len(self._quote) :]
            if not could_begin(text, self._quote):
                self._end(pieces)
            return text
        return self._bracket(text, pieces)

    def _bracket(self, text: str, pieces: list[str]) -> str:
        """Parse a bracket, comma or quote, or the first character of a name, number or word."""
        match text[0]:
            case '"':
                self._begin(pieces)
                pieces.append('"')
                self._inside = "json"
            case "{" | "[" as bracket:
                if not self._expects_name:
                    self._begin(pieces)
                    pieces.append(bracket)
                    self._open.append(CLOSING[bracket])
                    self._after = "open"
            case "}" | "]":
                self._close(pieces)
            case ",":
                if self._after == "name":
                    self._complete(pieces)
            case ":":
                pass
            case _:
                self._inside = "bare"
                return text
        return text[1:]

    def _begin(self, pieces: list[str]) -> None:
        """Write what stands before the next name or value."""
        if self._after == "name":
            pieces.append(": ")
        elif self._after == "value":
            pieces.append(", ")

    def _written(self) -> None:
        """A name or a value is complete."""
        self._after = "name" if self._expects_name else "value"
        self._inside = ""

    def _complete(self, pieces: list[str]) -> None:
        """Write the value of a name that has none."""
        if self._after == "name":
            pieces.append(": null")
            self._after = "value"

    def _close(self, pieces: list[str]) -> None:
        self._complete(pieces)
        pieces.append(self._open.pop())
        self._after = "value"
        if not self._open:
            self.state = "done"

    def _end(self, pieces: list[str]) -> None:
        """Something else begins: close what is open."""
        while self._open:
            self._close(pieces)
        self.state = "done"

    def _in_string(self, text: str, pieces: list[str]) -> str:
        before, after = split_at(text, self._quote)
        pieces.append(string_piece(before))
        if after is None:
            return text[len(before) :]
        pieces.append('"')
        self._written()
        return after

    def _in_json_string(self, text: str, pieces: list[str]) -> str:
        if self._escaped:
            self._escaped = False
            pieces.append(f"\\{text[0]}" if text[0] in ESCAPES else "\\\\" + string_piece(text[0]))
            return text[1:]
        if text[0] == "\\":
            self._escaped = True
            return text[1:]
        if text[0] == '"':
            pieces.append('"')
            self._written()
            return text[1:]
        found = IN_JSON_STRING.match(text)
        length = found.end() if found else len(text)
        pieces.append(string_piece(text[:length]))
        return text[length:]

    def _in_bare(self, text: str, pieces: list[str]) -> str:
        found = (NAME if self._expects_name else VALUE).match(text)
        if found:
            self._bare.append(found.group())
            text = text[found.end() :]
        if text:
            self._end_bare(pieces)
        return text

    def _end_bare(self, pieces: list[str]) -> None:
        source = "".join(self._bare)
        self._bare.clear()
        self._begin(pieces)
        pieces.append(
            json.dumps(source.strip(), ensure_ascii=False)
            if self._expects_name
            else as_json(source.strip(), frozenset())
        )
        self._written()
