"""References within a JSON schema that becomes a part of a larger one: where they point afterwards.

A reference is a JSON pointer from the schema's root (`#/$defs/a`), or the name of an `$anchor` (`#a`). Values
that are data (`const`, `enum`, `default`, `examples`) have none. A subschema with an `$id` of its own is a
resource of its own and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

DATA = frozenset({"const", "default", "enum", "examples"})
NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords with a schema for each name; a name may be that of a keyword."""


def rebased(schema: Any, root: str = "#") -> Any:
    """The schema with its references rebased onto `root`, its new location, where it has no `$id`.

    Anchors become pointers, since a name must be the only one of its schema.
    """
    if not isinstance(schema, dict):
        return schema
    own = schema.get("$id")
    base = own.removesuffix("#") if isinstance(own, str) else None
    schema = {key: value for key, value in schema.items() if key != "$id" or not isinstance(value, str)}
    anchors: dict[str, str] = {}
    for part, pointer in _subschemas(schema, ""):
        if isinstance(name := part.get("$anchor"), str):
            anchors.setdefault(name, pointer)

    def moved(reference: str) -> str:
        if base and reference.startswith(f"{base}#"):
            reference = reference.removeprefix(base)
        if not reference.startswith("#"):
            return root if reference == base else reference
        target = reference[1:]
        return root + (anchors.get(target, target) if not target.startswith("/") else target)

    return renamed(schema, moved)


def renamed(schema: Any, rename: Callable[[str], str]) -> Any:
    """The schema with another text for every reference, and without the names of anchors."""
    if isinstance(schema, list):
        return [renamed(one, rename) for one in schema]
    if not isinstance(schema, dict) or isinstance(schema.get("$id"), str):
        return schema
    made = {}
    for key, value in schema.items():
        if key in DATA:
            made[key] = value
        elif key == "$ref" and isinstance(value, str):
            made[key] = rename(value)
        elif key in NAMED and isinstance(value, dict):
            made[key] = {name: renamed(one, rename) for name, one in value.items()}
        elif key != "$anchor":
            made[key] = renamed(value, rename)
    return made


def _subschemas(schema: Any, pointer: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The schema and those in it, with the pointer of each, as a fragment has it."""
    if isinstance(schema, list):
        for index, one in enumerate(schema):
            yield from _subschemas(one, f"{pointer}/{index}")
    if not isinstance(schema, dict) or isinstance(schema.get("$id"), str):
        return
    yield schema, pointer
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            for name, one in value.items():
                yield from _subschemas(one, f"{pointer}/{key}/{_escaped(name)}")
        elif key not in DATA:
            yield from _subschemas(value, f"{pointer}/{_escaped(key)}")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1").replace("%", "%25")
