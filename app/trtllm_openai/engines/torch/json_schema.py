"""Preprocessing of JSON Schemas: removes no-op keywords and reports errors with their path.

llguidance enforces or rejects a keyword, but does not report its path, and it ignores keywords of draft 3.
Paths look like `properties.a.items[0]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
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
