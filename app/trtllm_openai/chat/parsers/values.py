"""Arguments that are not written as JSON: what type a schema gives them, and their text as JSON source."""

from __future__ import annotations

import ast
import json
from typing import Any, NoReturn

MAX_DEPTH = 8
"""References and combined schemas that are followed."""
CONSTANTS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def property_types(schema: Any, name: str) -> frozenset[str]:
    """The JSON types that the property `name` of an object schema may have; empty if it does not say."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return types_of(properties.get(name), schema) if isinstance(properties, dict) else frozenset()


def types_of(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; empty if it does not say. `root`: where its `$ref` point to."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return frozenset()
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(one for one in kind if isinstance(one, str))
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return frozenset(json_type(value) for value in values)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = [types_of(one, root, depth + 1) for one in schema[key]]
            return frozenset().union(*found) if all(found) else frozenset()
    if isinstance(schema.get("allOf"), list):
        return next(filter(None, (types_of(one, root, depth + 1) for one in schema["allOf"])), frozenset())
    return types_of(resolved(schema.get("$ref"), root), root, depth + 1)


def resolved(reference: Any, root: Any) -> Any:
    """The value that `#` or `#/…` points to in `root`; None for another reference, or if there is nothing."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    for part in reference[1:].split("/")[1:]:
        root = root.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(root, dict) else None
    return root


def json_type(value: Any) -> str:
    """The JSON type of a decoded value."""
    return NAMES.get(type(value), "null")


def as_json(text: str, types: frozenset[str]) -> str:
    """A value's text as JSON source. Text that is no value of these types is a string if it may be one.

    Without types (the schema does not say) it is JSON where it can be. Quotes belong to a string's text.
    """
    text = text.strip("\n")
    source = text.strip()
    known, kind = _read(CONSTANTS.get(source, source))
    if known is not None and (not types or kind in types or (kind == "integer" and "number" in types)):
        return known
    if known is None or "string" in types or not types:
        return json.dumps(text, ensure_ascii=False)
    return known


def string_piece(text: str) -> str:
    """A piece of a string's text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _read(source: str) -> tuple[str | None, str]:
    """JSON source, and its type, of JSON or of a Python literal; None if the text is neither."""
    try:
        value = json.loads(source, parse_constant=_refuse)
    except (ValueError, RecursionError):
        pass
    else:
        return (None, "") if isinstance(value, str) else (source, json_type(value))
    if source[:1] not in ("[", "{", "("):
        return None, ""
    try:
        value = ast.literal_eval(source)
        return json.dumps(value, ensure_ascii=False, allow_nan=False), json_type(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None, ""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
