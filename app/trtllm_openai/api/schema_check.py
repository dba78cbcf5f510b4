"""Says where a JSON schema is not well-formed, in time linear in its size.

The rules are those of the meta-schema of draft 2020-12, and for a schema whose `$schema` names an older draft
its forms of `items`, `exclusiveMinimum` and `exclusiveMaximum` too. They are written as a table because a
validator of JSON schemas takes a millisecond for each subschema to apply them as a schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
MAX_DEPTH = 64

_Path = tuple["_Path", str | int] | None
"""A linked list, the last key first."""


def schema_fault(schema: Any) -> tuple[str, str] | None:
    """The JSON path of the first fault, such as `.properties.a.type`, and what is wrong; None if none."""
    declared = schema.get("$schema") if isinstance(schema, dict) else None
    dialect = declared if isinstance(declared, str) else ""
    old = any(draft in dialect for draft in _OLD_DRAFTS)
    draft_4 = "draft-04" in dialect
    level: list[tuple[Any, _Path]] = [(schema, None)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[Any, _Path]] = []
        for part, path in level:
            if isinstance(part, bool):
                continue
            if not isinstance(part, dict):
                return _text(path), "a schema is an object or a boolean"
            for keyword, value in part.items():
                check = _KEYWORDS.get(keyword)
                if check is None:
                    continue
                if draft_4 and keyword in _EXCLUSIVE and isinstance(value, bool):
                    continue
                if keyword == "items" and old and isinstance(value, list):
                    check = _schemas
                found = check(value, (path, keyword), below)
                if found is not None:
                    return _text(found[0]), found[1]
        if not below:
            return None
        level = below
    return "", f"it is nested deeper than {MAX_DEPTH} levels"


_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07", "2019-09")
_EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")
_ANCHOR = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*")

_Fault = tuple[_Path, str] | None
_Below = list[tuple[Any, _Path]]
_Check = Callable[[Any, _Path, _Below], _Fault]
"""Checks the value at a path, and adds the subschemas in it to those that are still to be checked."""


def _text(path: _Path) -> str:
    keys = []
    while path is not None:
        path, key = path
        keys.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join(reversed(keys))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _number(value) and value >= 0 and value == value // 1


def _is(holds: Callable[[Any], bool], what: str) -> _Check:
    def check(value: Any, path: _Path, below: _Below) -> _Fault:
        return None if holds(value) else (path, f"it must be {what}")

    return check


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _type(value: Any, path: _Path, below: _Below) -> _Fault:
    known = ", ".join(TYPES)
    if not isinstance(value, list):
        return None if value in TYPES else (path, f"it must be one of {known}, or a list of them")
    for index, one in enumerate(value):
        if one not in TYPES:
            return (path, index), f"it must be one of {known}"
    return None if value and _unique(value) else (path, "it must have at least one type, each once")


def _names(value: Any, path: _Path, below: _Below) -> _Fault:
    if not isinstance(value, list):
        return path, "it must be a list of strings"
    for index, one in enumerate(value):
        if not isinstance(one, str):
            return (path, index), "it must be a string"
    return None if _unique(value) else (path, "it must not name anything twice")


def _unique(names: list[Any]) -> bool:
    return len(set(names)) == len(names)


def _schema(value: Any, path: _Path, below: _Below) -> _Fault:
    below.append((value, path))
    return None


def _schemas(value: Any, path: _Path, below: _Below) -> _Fault:
    if not isinstance(value, list) or not value:
        return path, "it must be a list with at least one schema"
    below.extend((one, (path, index)) for index, one in enumerate(value))
    return None


def _map_of(check: _Check) -> _Check:
    def check_map(value: Any, path: _Path, below: _Below) -> _Fault:
        if not isinstance(value, dict):
            return path, "it must be an object"
        for key, one in value.items():
            if (fault := check(one, (path, key), below)) is not None:
                return fault
        return None

    return check_map


def _schema_or_names(value: Any, path: _Path, below: _Below) -> _Fault:
    return (_names if isinstance(value, list) else _schema)(value, path, below)


def _table(*rows: tuple[str, _Check]) -> Iterable[tuple[str, _Check]]:
    return ((keyword, check) for keywords, check in rows for keyword in keywords.split())


_KEYWORDS: dict[str, _Check] = dict(
    _table(
        ("type", _type),
        ("enum examples", _is(lambda value: isinstance(value, list), "a list")),
        ("maximum minimum exclusiveMaximum exclusiveMinimum", _is(_number, "a number")),
        ("multipleOf", _is(lambda value: _number(value) and value > 0, "a number above 0")),
        (
            "maxLength minLength maxItems minItems maxProperties minProperties maxContains minContains",
            _is(_count, "an integer of at least 0"),
        ),
        (
            "uniqueItems deprecated readOnly writeOnly",
            _is(lambda value: isinstance(value, bool), "true or false"),
        ),
        (
            "$ref $dynamicRef $id $schema $comment pattern format title description contentEncoding "
            "contentMediaType",
            _is(_string, "a string"),
        ),
        (
            "$anchor $dynamicAnchor",
            _is(lambda value: _string(value) and _ANCHOR.match(value) is not None, "a name"),
        ),
        ("required", _names),
        ("dependentRequired", _map_of(_names)),
        ("allOf anyOf oneOf prefixItems", _schemas),
        ("$defs definitions properties patternProperties dependentSchemas", _map_of(_schema)),
        ("dependencies", _map_of(_schema_or_names)),
        (
            "additionalProperties additionalItems items contains propertyNames not if then else "
            "unevaluatedItems unevaluatedProperties contentSchema",
            _schema,
        ),
    )
)
