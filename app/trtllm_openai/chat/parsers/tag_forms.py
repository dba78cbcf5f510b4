"""Elements of XGrammar's structural tags, from which the grammar of a demanded call is put together.

Source: https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html. Only elements that XGrammar 0.1.32 and
the torch engine know are used: const_string, json_schema, regex, grammar, any_text, sequence, or, tag,
triggered_tags, tags_with_separator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtllm_openai.chat.parsers.references import renamed
from trtllm_openai.chat.parsers.values import resolved

Part = dict[str, Any]
"""An object of the structural tag format."""

NOTHING: Part = {"type": "grammar", "grammar": 'root ::= ""'}
ANY_TEXT: Part = {"type": "any_text"}
DEFINITIONS = ("$defs", "definitions")
_DEFINED = tuple(f"#/{key}/" for key in DEFINITIONS)
OPTIONS = "x-guidance"
"""The key of a schema under which llguidance finds its options; to others it is an unknown keyword."""
SHARED = (*DEFINITIONS, OPTIONS)
"""Keywords of a schema that hold in all of its parts."""


def text(value: str) -> Part:
    """Exactly this text, which is not empty."""
    return {"type": "const_string", "value": value}


def any_text(*excluded: str) -> Part:
    """Any text without these."""
    return {**ANY_TEXT, "excludes": list(excluded)}


def sequence(*elements: Part) -> Part:
    """One after another."""
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": list(elements)}


def either(*elements: Part) -> Part:
    """One of them."""
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}


def tag(begin: str, content: Part, end: str) -> Part:
    """Content between two texts. Free text ends with the first `end`."""
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def grammar(rules: str) -> Part:
    """A grammar in GBNF's dialect, start rule `root`."""
    return {"type": "grammar", "grammar": rules}


def json_part(schema: Any, root: Any = None) -> Part:
    """JSON of this schema, whose references are to the schema `root` that it is part of.

    What they point to becomes a definition, if it is none. Where that is nothing a lenient tool's schema is
    any JSON, and another one is left to the engine, which refuses it.
    """
    root = root if isinstance(root, dict) else {}
    shared = {key: root[key] for key in SHARED if key in root}
    names: dict[str, str] = {}
    lost: list[str] = []

    def place(reference: str) -> str:
        if resolved(reference, root) is None:
            lost.append(reference)
        elif not reference.startswith(_DEFINED):
            if reference not in names:
                names[reference] = _new_name(len(names), shared.get("$defs"))
            return f"#/$defs/{names[reference]}"
        return reference

    whole = renamed({**shared, **(schema if isinstance(schema, dict) else {})}, place)
    added: dict[str, Any] = {}
    while len(added) < len(names):
        for reference, name in list(names.items())[len(added) :]:
            added[name] = renamed(resolved(reference, root), place)
    if added:
        whole["$defs"] = {**whole.get("$defs", {}), **added}
    if lost and shared.get(OPTIONS, {}).get("lenient"):
        whole = shared
    return {"type": "json_schema", "json_schema": whole}


def _new_name(number: int, taken: Any) -> str:
    name = f"referred-{number}"
    while isinstance(taken, dict) and name in taken:
        name += "-"
    return name


def fields(schema: Any, field: Callable[[str, Any, Any], Part], separator: str = "") -> Part | None:
    """The properties of an object schema: required ones are there, others may be; None if it names none.

    `field` makes the form of one, of its name, its schema and the schema that this is part of. With a
    separator the required ones come first.
    """
    if not isinstance(schema, dict):
        return None
    whole = resolved(schema["$ref"], schema) if "$ref" in schema else schema
    properties = whole.get("properties") if isinstance(whole, dict) else None
    if not isinstance(properties, dict) or not properties:
        closed = isinstance(whole, dict) and whole.get("additionalProperties") is False
        return NOTHING if closed else None
    listed = whole.get("required")
    required = set(listed) if isinstance(listed, list) else set()
    made = {name: field(name, one, schema) for name, one in properties.items()}
    if not separator:
        every = [form if name in required else either(form, NOTHING) for name, form in made.items()]
        return sequence(*every)
    first = [form for name, form in made.items() if name in required]
    others = [form for name, form in made.items() if name not in required]
    if first:
        parts = [first[0]]
        for form in first[1:]:
            parts += [text(separator), form]
        return sequence(*parts, *(_optional(form, separator) for form in others))
    begun = [
        sequence(form, *(_optional(later, separator) for later in others[place + 1 :]))
        for place, form in enumerate(others)
    ]
    return either(*begun, NOTHING)


def separated(tags: list[Part], separator: str, *, parallel: bool) -> Part:
    """At least one of `tags`; with `parallel` several."""
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def repeated(tags: list[Part]) -> Part:
    """Any number of `tags`, one after another."""
    return {**separated(tags, "", parallel=True), "at_least_one": False}


def _optional(form: Part, separator: str) -> Part:
    return either(sequence(text(separator), form), NOTHING)
