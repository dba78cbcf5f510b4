"""Preprocessing of JSON Schemas: removes no-op keywords and reports errors with their path.

llguidance enforces or rejects a keyword, but does not report its path, and it ignores keywords of draft 3.
Paths look like `properties.a.items[0]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

SUBSCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
SUBSCHEMA_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items", "extends", "disallow"})
SUBSCHEMA_MAP = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
DRAFT_3_ONLY = frozenset({"disallow", "divisibleBy", "extends"})
ANNOTATIONS = frozenset({"$comment", "$schema", "default", "deprecated", "description", "examples", "title"})


def _allows_all(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.keys() <= ANNOTATIONS)


def _allows_strings(schema: Any) -> bool:
    """Whether every string satisfies it, as zod writes of a record's keys."""
    if not isinstance(schema, dict) or "type" not in schema:
        return _allows_all(schema)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return "string" in kinds and _allows_all({key: schema[key] for key in schema if key != "type"})


_EMPTY: dict[str, Callable[[Any], bool]] = {
    "dependencies": lambda value: value == {},
    "dependentRequired": lambda value: value == {},
    "dependentSchemas": lambda value: value == {},
    "not": lambda value: value is False,
    "propertyNames": _allows_strings,
    "unevaluatedItems": _allows_all,
    "unevaluatedProperties": _allows_all,
    "uniqueItems": lambda value: value is False,
}
"""Values with which a keyword that llguidance refuses demands nothing, so that it can be left out."""


WHITESPACE = r"[\x20\x0A\x0D\x09]{0,40}"
"""Whitespace allowed between two JSON tokens: enough for deep indentation, but bounded."""
_FIXED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@lru_cache(1)
def whitespace_options() -> Any:
    """llguidance's options for whitespace between JSON tokens: at most `WHITESPACE`.

    Before 1.8 it repeats the pattern without end, and a model could write nothing but whitespace: there the
    text has that of Python's `json.dumps`.
    """
    from llguidance import LLMatcher, LLTokenizer

    options: Any = {"whitespace_pattern": WHITESPACE}
    longer = b"[" + b" " * 50 + b"]"
    matcher = LLMatcher(
        LLTokenizer("byte"), LLMatcher.grammar_from_json_schema('{"type":"array"}', overrides=options)
    )
    return options if matcher.validate_tokens(list(longer)) < len(longer) else _FIXED


class SchemaError(ValueError):
    """The schema cannot be enforced; `path` locates the cause."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def prepare(text: str) -> str:
    """Return the schema text to compile. Raises `SchemaError`."""
    schema = json.loads(text)
    if schema is True:
        return "{}"
    if schema is False:
        raise SchemaError("", "no value satisfies the schema false")
    changed = False
    for path, part in subschemas(schema):
        for keyword in DRAFT_3_ONLY & part.keys():
            raise SchemaError(f"{path}.{keyword}", f"{keyword} is a draft 3 keyword, which is not supported")
        if "$ref" in part and ("$id" in part or "id" in part):
            raise SchemaError(
                f"{path}.$ref", "$ref next to $id is ambiguous: the drafts disagree on its meaning"
            )
        for keyword in [keyword for keyword in _EMPTY.keys() & part.keys() if _EMPTY[keyword](part[keyword])]:
            del part[keyword]
            changed = True
    return json.dumps(schema) if changed else text


def find_keyword(text: str, keyword: str) -> str | None:
    """Return the path of the first use of a keyword, e.g. `.properties.a.not`, or None if unused."""
    for path, part in subschemas(json.loads(text)):
        if keyword in part:
            return f"{path}.{keyword}"
    return None


def subschemas(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema object in `schema`, including itself, with its path, in document order."""
    stack: list[tuple[str, Any]] = [("", schema)]
    while stack:
        path, part = stack.pop()
        if not isinstance(part, dict):
            continue
        yield path, part
        children: list[tuple[str, Any]] = []
        for key, value in part.items():
            child_path = f"{path}.{key}"
            if key in SUBSCHEMA_MAP and isinstance(value, dict):
                children += ((f"{child_path}.{name}", child) for name, child in value.items())
            elif key in SUBSCHEMA_LIST and isinstance(value, list):
                children += ((f"{child_path}[{index}]", child) for index, child in enumerate(value))
            elif key in SUBSCHEMA:
                children.append((child_path, value))
        stack += reversed(children)
