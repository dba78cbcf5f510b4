"""Strings that are not written as JSON strings: a schema as the text between two marks.

A keyword that the format cannot enforce is ignored for a lenient tool, and otherwise refused with its place
(`NotHeldError`).
"""

from __future__ import annotations

from typing import Any

from trtllm_openai.chat.parsers.tag_forms import ANY_TEXT, DEFINITIONS, OPTIONS, Part, either, tag, text
from trtllm_openai.chat.parsers.values import MAX_DEPTH, resolved

ANNOTATIONS = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "default",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "$ref", *DEFINITIONS, OPTIONS})
STRING = frozenset({"type", "enum", "const", "minLength", "maxLength", "pattern"})


class NotHeldError(ValueError):
    """A keyword that a call's format cannot hold. `path`: its place in the schema of the arguments."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def lenient(root: Any) -> bool:
    """Whether what cannot be held is left out of the tool that has the schema `root`."""
    return isinstance(root, dict) and bool(root.get(OPTIONS, {}).get("lenient"))


def check(schema: Any, allowed: frozenset[str], root: Any, path: str) -> None:
    """Raise `NotHeldError` for a keyword that is not `allowed`, unless it is left out."""
    if isinstance(schema, dict) and not lenient(root):
        for keyword in schema:
            if keyword not in allowed and keyword not in ANNOTATIONS:
                raise NotHeldError(f"{path}.{keyword}")


def check_object(schema: Any, root: Any, path: str) -> None:
    """The same for an object whose properties are written one by one."""
    check(schema, OBJECT, root, path)
    whole = expanded(schema, root)
    if lenient(root) or not isinstance(whole, dict):
        return
    check(whole, OBJECT, root, path)
    known = whole.get("properties") or {}
    if set(whole.get("required") or ()) - set(known):
        raise NotHeldError(f"{path}.required")
    if not known and isinstance(whole.get("additionalProperties"), dict) and whole["additionalProperties"]:
        raise NotHeldError(f"{path}.additionalProperties")


def expanded(schema: Any, root: Any) -> Any:
    """The schema with what its `$ref` points to, and its own keywords over that."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        found = resolved(schema["$ref"], root)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**found, **rest} if isinstance(found, dict) else rest
    return schema


def listed(schema: Any) -> list[Any] | None:
    """The values that a schema lists as the only ones; None if it lists none."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) and values else None


def string(begin: str, schema: Any, end: str, root: Any, path: str) -> Part:
    """A string of this schema between two marks. It does not contain `end`."""
    schema = expanded(schema, root)
    check(schema, STRING, root, path)
    if (values := listed(schema)) is not None:
        fitting = [one for one in values if isinstance(one, str) and end not in one]
        if fitting:
            return either(*(text(f"{begin}{one}{end}") for one in fitting))
    rules = _rules(schema, root, path) if isinstance(schema, dict) else []
    if not rules:
        return tag(begin, ANY_TEXT, end)
    return tag(begin, {"type": "regex", "pattern": rules[0], "also": rules[1:]}, end)


def _rules(schema: dict[str, Any], root: Any, path: str) -> list[str]:
    """Regular expressions, each of the whole string."""
    found = []
    if isinstance(schema.get("pattern"), str):
        try:
            found.append(whole_pattern(schema["pattern"]))
        except ValueError:
            if not lenient(root):
                raise NotHeldError(f"{path}.pattern") from None
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    if least or most != "":
        found.append(f"(.|\\n){{{least},{most}}}")
    return found


def whole_pattern(pattern: str) -> str:
    """A regular expression that is searched for as one of the whole text.

    Raises `ValueError` where an anchor is not at one of its ends, or holds for one of several branches.
    """
    begins = pattern.startswith("^")
    body = pattern[1:] if begins else pattern
    ends = body.endswith("$") and (len(body) - len(body[:-1].rstrip("\\"))) % 2 == 1
    body = body[:-1] if ends else body
    depth, inside, escaped, branches = 0, False, False, False
    for char in body:
        if escaped:
            escaped = False
            continue
        escaped = char == "\\"
        if inside:
            inside = char != "]"
            continue
        if char in "^$":
            raise ValueError("an anchor in the middle")
        inside = char == "["
        depth += (char == "(") - (char == ")")
        branches = branches or (char == "|" and depth == 0)
    if branches and (begins or ends):
        raise ValueError("an anchor of one branch")
    before, after = "" if begins else "(.|\\n)*", "" if ends else "(.|\\n)*"
    return f"{before}({body}){after}"
