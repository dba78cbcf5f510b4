"""XGrammar's structural tags as llguidance grammars.

A structural tag mixes free text with parts whose form is held, e.g. `<tool>{"name": …}</tool>` inside prose.
Source of the format: https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html. Supported: const_string,
json_schema, regex, grammar, any_text, sequence, or, tag, triggered_tags, tags_with_separator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

FREE_TEXT = r"FREE_TEXT: /(.|\n)*/"


def structural_tag_grammar(text: str, from_gbnf: Callable[[str], str]) -> str:
    """The grammar of `{"type": "structural_tag", "format": …}`. Raises `ValueError` naming the bad part.

    `from_gbnf` converts a GBNF grammar to Lark.
    """
    tag = json.loads(text)
    if not isinstance(tag, dict) or "format" not in tag:
        raise ValueError("it has no format")
    builder = _Builder(from_gbnf)
    start = builder.rule(tag["format"], "format")
    lark = "\n".join(["%llguidance {}", f"start: {start}", *builder.rules, FREE_TEXT])
    if not builder.nested:
        return lark
    grammars = [{"name": "structural_tag", "lark_grammar": lark}, *builder.nested]
    return json.dumps({"grammars": grammars})


def regex_terminal(pattern: str) -> str:
    r"""A regular expression as Lark writes it; `\d` and `\w` are ASCII, as in JSON Schema."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, use_ascii='dw')}/"


class _Builder:
    """Collects Lark rules; `rule` returns the name of the rule of one format object."""

    def __init__(self, from_gbnf: Callable[[str], str]) -> None:
        self._from_gbnf = from_gbnf
        self.rules: list[str] = []
        self.nested: list[dict[str, str]] = []

    def rule(self, form: Any, path: str) -> str:
        kind = form.get("type") if isinstance(form, dict) else None
        match kind:
            case "const_string":
                return self._add(_literal(form.get("value"), f"{path}.value"))
            case "json_schema":
                return self._add(self._json(form.get("json_schema"), f"{path}.json_schema"))
            case "regex":
                return self._add(self._regex(form.get("pattern"), f"{path}.pattern"))
            case "grammar":
                return self._add(self._grammar(form.get("grammar"), f"{path}.grammar"))
            case "any_text":
                return self._add("FREE_TEXT")
            case "sequence":
                return self._add(" ".join(self._elements(form, path)))
            case "or":
                return self._add(" | ".join(self._elements(form, path)))
            case "tag":
                return self._add(self._tag(form, path))
            case "triggered_tags":
                return self._add(self._triggered(form, path))
            case "tags_with_separator":
                return self._add(self._separated(form, path))
        raise ValueError(f"{path}.type {kind!r} is not supported")

    def _add(self, body: str, *, lazy: bool = False) -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def _elements(self, form: dict[str, Any], path: str, key: str = "elements") -> list[str]:
        elements = form.get(key)
        if not isinstance(elements, list) or not elements:
            raise ValueError(f"{path}.{key} must be a list that is not empty")
        return [self.rule(element, f"{path}.{key}[{i}]") for i, element in enumerate(elements)]

    def _json(self, schema: Any, path: str) -> str:
        if not isinstance(schema, (dict, bool)):
            raise ValueError(f"{path} must be a JSON schema")
        return "%json " + json.dumps({} if schema is True else schema)

    def _regex(self, pattern: Any, path: str) -> str:
        if not isinstance(pattern, str):
            raise ValueError(f"{path} must be a string")
        return regex_terminal(pattern)

    def _grammar(self, grammar: Any, path: str) -> str:
        if not isinstance(grammar, str):
            raise ValueError(f"{path} must be a string")
        name = f"grammar_{len(self.nested)}"
        self.nested.append({"name": name, "lark_grammar": self._from_gbnf(grammar)})
        return f"@{name}"

    def _tag(self, form: dict[str, Any], path: str, trigger: str = "") -> str:
        """`trigger`: the beginning of `begin` that was matched already."""
        begin, content = form.get("begin"), form.get("content")
        first = _literal(begin, f"{path}.begin", skip=len(trigger))
        ends = form.get("end")
        last = [_literal(end, f"{path}.end") for end in (ends if isinstance(ends, list) else [ends])]
        if isinstance(content, dict) and content.get("type") == "any_text" and all(last):
            closing = " | ".join(self._add(f"FREE_TEXT {end}", lazy=True) for end in last)
            return f"{first} ({closing})"
        return f"{first} {self.rule(content, f'{path}.content')} ({' | '.join(last)})"

    def _triggered(self, form: dict[str, Any], path: str) -> str:
        triggers, tags = form.get("triggers"), form.get("tags")
        if not isinstance(triggers, list) or not all(isinstance(one, str) and one for one in triggers):
            raise ValueError(f"{path}.triggers must be a list of strings that are not empty")
        if not isinstance(tags, list) or not tags:
            raise ValueError(f"{path}.tags must be a list that is not empty")
        by_trigger: dict[str, list[str]] = {}
        for i, tag in enumerate(tags):
            place = f"{path}.tags[{i}]"
            begin = tag.get("begin") if isinstance(tag, dict) else None
            trigger = next((one for one in triggers if str(begin).startswith(one)), None)
            if trigger is None:
                raise ValueError(f"{place}.begin begins with none of {path}.triggers")
            by_trigger.setdefault(trigger, []).append(self._add(self._tag(tag, place, trigger)))
        options = [
            f"{self._add(f'FREE_TEXT {json.dumps(trigger)}', lazy=True)} ({' | '.join(rest)})"
            for trigger, rest in by_trigger.items()
        ]
        once = f"({' | '.join(options)})"
        if form.get("stop_after_first"):
            return once if form.get("at_least_one") else f"{once} | FREE_TEXT"
        return f"{once}{'+' if form.get('at_least_one') else '*'} FREE_TEXT"

    def _separated(self, form: dict[str, Any], path: str) -> str:
        tags = f"({' | '.join(self._elements(form, path, 'tags'))})"
        separator = _literal(form.get("separator"), f"{path}.separator")
        whole = tags if form.get("stop_after_first") else f"{tags} ({separator} {tags})*"
        return whole if form.get("at_least_one") else f"({whole})?"


def _literal(text: Any, path: str, skip: int = 0) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{path} must be a string")
    return json.dumps(text[skip:], ensure_ascii=False) if text[skip:] else ""
