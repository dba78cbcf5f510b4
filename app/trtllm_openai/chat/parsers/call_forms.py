"""How tool calls of a format are written, as parts of a structural tag: the counterpart of its parser.

A part is an object of XGrammar's structural tag format. What a `CallForm` allows, the parser of the format
reads as calls. Schemas stay parts of their own, so that an engine can say which of them it cannot enforce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trtllm_openai.chat.parsers.references import rebased
from trtllm_openai.chat.parsers.tag_forms import (
    OPTIONS,
    SHARED,
    Part,
    either,
    fields,
    repeated,
    separated,
    sequence,
    tag,
    text,
)

PARAM = "param"
"""The key of a part's own request parameter, which a guide keeps apart from the part."""


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool by its name, with its arguments as a part of the type `json_schema`."""

    name: str
    arguments: Part

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        schema: dict[str, Any] = self.arguments["json_schema"]
        return schema

    @property
    def place(self) -> str:
        """The request parameter that the schema came from."""
        return str(self.arguments.get(PARAM, ""))


class CallForm(Protocol):
    """How the calls of a format are written."""

    def triggers(self, tools: Sequence[CallableTool]) -> list[str]:
        """Texts that begin a call inside of other text. Each of `tags` begins with one of them."""

    def tags(self, tools: Sequence[CallableTool], *, parallel: bool) -> list[Part]:
        """Parts of the type `tag`: each is one call, or with `parallel` as many as one mark begins."""

    def calls(self, tools: Sequence[CallableTool], *, parallel: bool) -> Part:
        """At least one call, and no other text."""


def json_part(schema: Any) -> Part:
    """A JSON document of this schema."""
    return {"type": "json_schema", "json_schema": schema}


def quoted(name: str) -> str:
    """A tool's name as JSON writes it; names have no character that JSON escapes."""
    return f'"{name}"'


@dataclass(frozen=True, slots=True)
class ListedCalls:
    """A mark begins a JSON array of calls, or one by its name: `mark[{…}, …]` or `mark` name `middle` …."""

    mark: str
    middle: str

    def triggers(self, tools: Sequence[CallableTool]) -> list[str]:
        return [self.mark]

    def tags(self, tools: Sequence[CallableTool], *, parallel: bool) -> list[Part]:
        objects = [
            tag(f'{{"name": {quoted(tool.name)}, "arguments": ', tool.arguments, "}") for tool in tools
        ]
        listed = tag(f"{self.mark}[", separated(objects, ", ", parallel=parallel), "]")
        return [listed, *(tag(f"{self.mark}{tool.name}{self.middle}", tool.arguments, "") for tool in tools)]

    def calls(self, tools: Sequence[CallableTool], *, parallel: bool) -> Part:
        return separated(self.tags(tools, parallel=parallel), "", parallel=parallel)


@dataclass(frozen=True, slots=True)
class BareJsonCalls:
    """A call is a JSON object without a mark, or after an optional one: `{"name": …, "parameters": …}`."""

    mark: str

    def triggers(self, tools: Sequence[CallableTool]) -> list[str]:
        return [self.mark, *(self._begin(tool) for tool in tools)]

    def tags(self, tools: Sequence[CallableTool], *, parallel: bool) -> list[Part]:
        bare = [tag(f'{self._begin(tool)}, "parameters": ', tool.arguments, "}") for tool in tools]
        return [*({**one, "begin": self.mark + one["begin"]} for one in bare), *bare]

    def calls(self, tools: Sequence[CallableTool], *, parallel: bool) -> Part:
        """One call. It is a schema: the text beside it may be JSON too, and lexers do not look ahead."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "parameters": {"$ref": f"#/$defs/tool_{index}"}},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for index, tool in enumerate(tools)
        ]
        options = {key: value for tool in tools for key, value in tool.schema.get(OPTIONS, {}).items()}
        definitions = {
            f"tool_{index}": rebased(
                {key: value for key, value in tool.schema.items() if key != OPTIONS}, f"#/$defs/tool_{index}"
            )
            for index, tool in enumerate(tools)
        }
        schema: dict[str, Any] = {"anyOf": calls, "$defs": definitions}
        return json_part({**schema, OPTIONS: options} if options else schema)

    def _begin(self, tool: CallableTool) -> str:
        return f'{{"name": {quoted(tool.name)}'


@dataclass(frozen=True, slots=True)
class PythonicCalls:
    """A list of Python calls with keyword arguments, whose values are JSON: `[f(a=1), g(b="x")]`."""

    def triggers(self, tools: Sequence[CallableTool]) -> list[str]:
        return [f"[{tool.name}(" for tool in tools]

    def tags(self, tools: Sequence[CallableTool], *, parallel: bool) -> list[Part]:
        arguments = {tool.name: _keywords(tool.schema) for tool in tools}
        if not parallel:
            return [tag(f"[{name}(", part, ")]") for name, part in arguments.items()]
        others = repeated([tag(f", {name}(", part, ")") for name, part in arguments.items()])
        return [tag(f"[{name}(", sequence(part, text(")"), others), "]") for name, part in arguments.items()]

    def calls(self, tools: Sequence[CallableTool], *, parallel: bool) -> Part:
        return either(*self.tags(tools, parallel=parallel))


MAX_OPTIONAL = 12
"""Optional arguments that are written in the schema's order; their combinations are quadratic in number."""


def _keywords(schema: dict[str, Any]) -> Part:
    """Keyword arguments of an object's schema, the required ones first; any, if it does not tell them."""
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    plain = schema.keys().isdisjoint(COMBINING) and all(name.isidentifier() for name in properties)
    if not plain or sum(name not in required for name in properties) > MAX_OPTIONAL:
        return _any_keywords()
    return fields(schema, _keyword, ", ") or _any_keywords()


COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if"})


def _keyword(name: str, schema: Any, root: Any) -> Part:
    shared = {key: root[key] for key in SHARED if key in root}
    return sequence(text(f"{name}="), json_part({**shared, **schema} if isinstance(schema, dict) else schema))


def _any_keywords() -> Part:
    name = {"type": "regex", "pattern": "[a-zA-Z_][a-zA-Z0-9_]*="}
    one = sequence(name, json_part({}))
    return either(sequence(one, repeated([tag(", ", one, "")])), text(""))
