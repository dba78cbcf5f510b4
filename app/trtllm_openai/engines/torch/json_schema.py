"""JSON Schemas before they are compiled: no-op keywords removed, faults with their place in the schema.

llguidance enforces a keyword or refuses it, but does not say where it is, and it ignores keywords that only
draft 3 has. Paths are written as in `properties.a.items[0]`.
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
    """The schema cannot be enforced; `path` is the place of the reason."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def prepare(text: str) -> str:
    """The schema as it is given to the compiler. Raises `SchemaError`."""
    schema = json.loads(text)
    if schema is True:
        return "{}"
    if schema is False:
        raise SchemaError("", "no value satisfies the schema false")
    changed = False
    for path, part in subschemas(schema):
        for keyword in DRAFT_3_ONLY & part.keys():
            raise SchemaError(f"{path}.{keyword}", f"{keyword} is not enforced: it is a keyword of draft 3")
        if "$ref" in part and ("$id" in part or "id" in part):
            raise SchemaError(f"{path}.$ref", "$ref beside $id has no meaning on which the drafts agree")
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
            changed = True
    return json.dumps(schema) if changed else text


def find_keyword(text: str, keyword: str) -> str | None:
    """The path of the first use of a keyword, `.properties.a.not` for example; None if there is none."""
    for path, part in subschemas(json.loads(text)):
        if keyword in part:
            return f"{path}.{keyword}"
    return None


def subschemas(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema object in `schema`, itself included, with its path; the first found first."""
    stack: list[tuple[str, Any]] = [("", schema)]
    while stack:
        path, part = stack.pop()
        if not isinstance(part, dict):
            continue
        yield path, part
        children: list[tuple[str, Any]] = []
        for key, value in part.items():
            place = f"{path}.{key}"
            if key in SUBSCHEMA_MAP and isinstance(value, dict):
                children += ((f"{place}.{name}", child) for name, child in value.items())
            elif key in SUBSCHEMA_LIST and isinstance(value, list):
                children += ((f"{place}[{index}]", child) for index, child in enumerate(value))
            elif key in SUBSCHEMA:
                children.append((place, value))
        stack += reversed(children)
