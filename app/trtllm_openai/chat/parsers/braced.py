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
from trtllm_openai.chat.parsers.string_forms import (
    NotHeldError,
    check,
    check_object,
    expanded,
    lenient,
    listed,
    string,
)
from trtllm_openai.chat.parsers.tag_forms import (
    NOTHING,
    Part,
    either,
    fields,
    grammar,
    json_part,
    repeated,
    sequence,
    tag,
    text,
)
from trtllm_openai.chat.parsers.values import MAX_DEPTH, as_json, string_piece, types_of
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
ARRAY = frozenset({"type", "items", "minItems", "maxItems"})
MAX_COUNTED = 16
"""Items of an array that are counted; each is a part of its own."""
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
        """The arguments of a call of `tool`. Raises `NotHeldError` for what cannot be held."""
        return self._object(tool.schema, tool.schema, "", 0)

    def _object(self, schema: Any, root: Any, path: str, depth: int) -> Part:
        check_object(schema, root, path)

        def field(name: str, one: Any, _: Any) -> Part:
            return sequence(text(f"{name}:"), self._typed(one, root, f"{path}.properties.{name}", depth + 1))

        found = fields(schema, field, ",")
        return self._any("object") if found is None else sequence(text("{"), found, text("}"))

    def _any(self, rule: str) -> Part:
        return grammar(f"root ::= {rule}\n{ANY_VALUE.replace('QUOTE', json.dumps(self.quote))}")

    def _typed(self, schema: Any, root: Any, path: str, depth: int) -> Part:
        if depth > MAX_DEPTH and not lenient(root):
            raise NotHeldError(path)
        types, whole = types_of(schema, root), expanded(schema, root)
        values = [one for one in listed(whole) or () if not isinstance(one, str) or self.quote not in one]
        if values:
            return either(*(text(self._value(one)) for one in values))
        if types == {"string"}:
            return string(self.quote, whole, self.quote, root, path)
        if types == {"object"} and depth <= MAX_DEPTH and isinstance(whole.get("properties"), dict):
            return self._object(whole, root, path, depth)
        if types == {"array"} and depth <= MAX_DEPTH:
            return self._array(whole, root, path, depth)
        if types and types <= {"integer", "number", "boolean", "null"}:
            return json_part(schema, root)
        check(whole, frozenset({"type"}), root, path)
        return self._any("value")

    def _array(self, schema: dict[str, Any], root: Any, path: str, depth: int) -> Part:
        check(schema, ARRAY, root, path)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if max(least, most or 0) > MAX_COUNTED:
            if not lenient(root):
                raise NotHeldError(f"{path}.{'minItems' if least > MAX_COUNTED else 'maxItems'}")
            least, most = min(least, MAX_COUNTED), None
        item = self._typed(schema.get("items", {}), root, f"{path}.items", depth + 1)
        more = repeated([tag(",", item, "")])
        if most is not None:
            more = NOTHING
            for _ in range(most - max(least, 1)):
                more = either(sequence(text(","), item, more), NOTHING)
        needed = [item] + [sequence(text(","), item)] * (least - 1)
        # XGrammar takes what repeats only as the last part of a sequence.
        filled = tag("[", sequence(*needed, more), "]")
        if most == 0:
            return text("[]")
        return filled if least else either(text("[]"), filled)


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
