"""Converts XGrammar's structural tags, and thinking that precedes a guided text, to llguidance grammars.

A structural tag mixes free text with constrained parts, e.g. `<tool>{"name": …}</tool>` inside prose.
Source of the format: https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html. Supported: const_string,
json_schema, regex, grammar, any_text, sequence, or, tag, triggered_tags, tags_with_separator.

A mark can be a special token, which has no text of its own in the vocabulary: it is then allowed as that
token and, as parsers read it too, written out. llguidance's lexer does not look ahead, so what ends free text
is one lexeme with it, and free text where thinking may begin instead does not begin with thinking's tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trtllm_openai.engines.torch.json_schema import SchemaError, prepare, whitespace_options
from trtllm_openai.generation import Guide, GuideKind, Thinking

ANY_TEXT = r"ANY_TEXT: /(.|\n)*/"
SPACE = r"/[ \t\r\n]{0,8}/"
"""White space next to the tags of thinking."""


def structural_tag_grammar(guide: Guide, from_gbnf: Callable[[str], str]) -> str:
    """Convert `{"type": "structural_tag", "format": …}`. Raises `SchemaError` with the path of a fault.

    `from_gbnf` converts a GBNF grammar to Lark.
    """
    tag = json.loads(guide.text)
    if not isinstance(tag, dict) or "format" not in tag:
        raise SchemaError(".format", "it is missing")
    builder = _Builder(from_gbnf, guide.special)
    start = builder.rule(tag["format"], ".format")
    thinking = guide.thinking
    free = "FREE_TEXT: ANY_TEXT"
    if thinking is not None and not thinking.opened and not thinking.within:
        free += f" & ~({SPACE} {json.dumps(thinking.begin)} ANY_TEXT)"
    lark = "\n".join(["%llguidance {}", f"start: {start}", *builder.rules, ANY_TEXT, free])
    if not builder.nested:
        return lark
    grammars = [{"name": "structural_tag", "lark_grammar": lark}, *builder.nested]
    return json.dumps({"grammars": grammars})


def parts(text: str) -> Iterator[tuple[str, GuideKind, str]]:
    """The guides inside a structural tag that has a grammar: the JSON path, the kind and the text of each."""
    stack = [(".format", json.loads(text)["format"])]
    while stack:
        path, form = stack.pop()
        match form["type"]:
            case "json_schema":
                yield f"{path}.json_schema", "json_schema", json.dumps(form["json_schema"])
            case "regex":
                yield f"{path}.pattern", "regex", form["pattern"]
            case "grammar":
                yield f"{path}.grammar", "grammar", form["grammar"]
            case "tag":
                stack.append((f"{path}.content", form["content"]))
            case kind:
                key = "elements" if kind in ("sequence", "or") else "tags"
                inner = [(f"{path}.{key}[{i}]", one) for i, one in enumerate(form.get(key, ()))]
                stack += reversed(inner)


def after_thinking(grammar: str, thinking: Thinking, special: Mapping[str, int]) -> str:
    """`grammar`, a Lark grammar or llguidance's JSON, after thinking: of any text, up to its end tag."""
    builder = _Builder(_no_gbnf, special)
    thought = f"{builder.until(thinking.end, 'ANY_TEXT')} {SPACE}"
    form = "@form"
    if thinking.answer:
        builder.rules.append(f"ANSWER: {json.dumps(thinking.answer, ensure_ascii=False)} {SPACE}")
        tokens = [f"{token} {SPACE}" for token in _token(thinking.answer, special)]
        marks = " | ".join(["ANSWER", *tokens])
        form = f"(({marks}) @form ({builder.literal(thinking.answer_end)})? | @form)"
    start = f"{thought} {form}"
    if not thinking.opened:
        builder.rules.append(f"BEGIN: {SPACE} {json.dumps(thinking.begin, ensure_ascii=False)}")
        marks = " | ".join(["BEGIN", *builder.with_tokens(thinking.begin)])
        start = f"({marks}) {start} | @form"
    lark = "\n".join(["%llguidance {}", f"start: {start}", *builder.rules, ANY_TEXT])
    whole = json.loads(grammar) if grammar.startswith("{") else {"grammars": [{"lark_grammar": grammar}]}
    whole["grammars"][0]["name"] = "form"
    whole["grammars"].insert(0, {"name": "thinking", "lark_grammar": lark})
    return json.dumps(whole)


def _no_gbnf(grammar: str) -> str:
    raise ValueError(f"{grammar!r} is not expected here")


def _token(mark: str, special: Mapping[str, int]) -> list[str]:
    return [f"<[{special[mark]}]>"] if mark in special else []


def regex_terminal(pattern: str) -> str:
    r"""Convert a regular expression to a Lark terminal; `\d` and `\w` are ASCII, as in JSON Schema."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, use_ascii='dw')}/"


class _Builder:
    """Collects Lark rules; `rule` adds the rule of one format object and returns its name."""

    def __init__(self, from_gbnf: Callable[[str], str], special: Mapping[str, int]) -> None:
        self._from_gbnf = from_gbnf
        self._special = special
        self._marks = re.compile("|".join(map(re.escape, special))) if special else None
        self.rules: list[str] = []
        self.nested: list[dict[str, str]] = []

    def rule(self, form: Any, path: str) -> str:
        kind = form.get("type") if isinstance(form, dict) else None
        match kind:
            case "const_string":
                return self._add(self.literal(form.get("value"), f"{path}.value") or '""')
            case "json_schema":
                return self._add(self._json(form.get("json_schema"), f"{path}.json_schema"))
            case "regex":
                return self._add(self._regex_terminal(form, path))
            case "grammar":
                return self._add(self._grammar(form.get("grammar"), f"{path}.grammar"))
            case "any_text":
                return self._add(self._free_text(form, path))
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
        raise SchemaError(f"{path}.type", f"{kind!r} is not supported")

    def _add(self, body: str, *, lazy: bool = False) -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def _elements(self, form: dict[str, Any], path: str, key: str = "elements") -> list[str]:
        elements = form.get(key)
        if not isinstance(elements, list) or not elements:
            raise SchemaError(f"{path}.{key}", "it must be a non-empty list")
        return [self.rule(element, f"{path}.{key}[{i}]") for i, element in enumerate(elements)]

    def _json(self, schema: Any, path: str) -> str:
        if not isinstance(schema, (dict, bool)):
            raise SchemaError(path, "it must be a JSON schema")
        try:
            prepared = json.loads(prepare(json.dumps(schema)))
        except SchemaError as error:
            raise SchemaError(path + error.path, str(error)) from None
        options = {**whitespace_options(), **prepared.get("x-guidance", {})}
        return "%json " + json.dumps({**prepared, "x-guidance": options})

    def _regex(self, pattern: Any, path: str) -> str:
        if not isinstance(pattern, str):
            raise SchemaError(path, "it must be a string")
        try:
            return regex_terminal(pattern)
        except ValueError as error:
            raise SchemaError(path, str(error)) from None

    def _grammar(self, grammar: Any, path: str) -> str:
        if not isinstance(grammar, str):
            raise SchemaError(path, "it must be a string")
        name = f"grammar_{len(self.nested)}"
        try:
            self.nested.append({"name": name, "lark_grammar": self._from_gbnf(grammar)})
        except ValueError as error:
            raise SchemaError(path, str(error)) from None
        return f"@{name}"

    def _tag(self, form: dict[str, Any], path: str, trigger: str = "") -> str:
        """`trigger`: the prefix of `begin` that is matched already."""
        begin, content = form.get("begin"), form.get("content")
        first = self.literal(begin, f"{path}.begin", skip=len(trigger))
        given = form.get("end")
        ends: list[Any] = given if isinstance(given, list) else [given]
        last = [self.literal(end, f"{path}.end") or '""' for end in ends]
        if isinstance(content, dict) and content.get("type") == "any_text" and all(ends):
            text = self._free_text(content, f"{path}.content")
            return f"{first} ({' | '.join(self.until(end, text) for end in ends)})"
        if isinstance(content, dict) and content.get("type") == "regex" and all(ends):
            text = self._regex_terminal(content, f"{path}.content")
            return f"{first} ({' | '.join(self.until(end, text) for end in ends)})"
        return f"{first} {self.rule(content, f'{path}.content')} ({' | '.join(last)})"

    def _regex_terminal(self, form: dict[str, Any], path: str) -> str:
        """The terminal of a regular expression, and of others that hold `also`."""
        whole = [self._regex(form.get("pattern"), f"{path}.pattern")]
        whole += [self._regex(one, f"{path}.also") for one in form.get("also") or ()]
        name = f"REGEX_{len(self.rules)}"
        self.rules.append(f"{name}: {' & '.join(whole)}")
        return name

    def _free_text(self, form: dict[str, Any], path: str) -> str:
        """The terminal of any text, or of any without the texts in `excludes`."""
        excluded = form.get("excludes") or []
        if not isinstance(excluded, list) or not all(isinstance(one, str) and one for one in excluded):
            raise SchemaError(f"{path}.excludes", "it must be a list of non-empty strings")
        if not excluded:
            return "FREE_TEXT"
        name = f"TEXT_{len(self.rules)}"
        texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in excluded)
        self.rules.append(f"{name}: FREE_TEXT & ~(ANY_TEXT ({texts}) ANY_TEXT)")
        return name

    def until(self, mark: str, text: str) -> str:
        """The rule of text, of the terminal `text`, up to the first `mark` and with it."""
        written = self._add(f"{text} {json.dumps(mark, ensure_ascii=False)}", lazy=True)
        token = _token(mark, self._special)
        if not token:
            return written
        name = f"BEFORE_{len(self.rules)}"
        self.rules.append(f"{name}: {text} & ~(ANY_TEXT {json.dumps(mark, ensure_ascii=False)} ANY_TEXT)")
        return self._add(f"{written} | {name} {token[0]}")

    def with_tokens(self, mark: str) -> list[str]:
        """A mark with special tokens for those that it has; none if it has none."""
        return [self.literal(mark)] if self._marks is not None and self._marks.search(mark) else []

    def _triggered(self, form: dict[str, Any], path: str) -> str:
        triggers, tags = form.get("triggers"), form.get("tags")
        if not isinstance(triggers, list) or not all(isinstance(one, str) and one for one in triggers):
            raise SchemaError(f"{path}.triggers", "it must be a list of non-empty strings")
        if not isinstance(tags, list) or not tags:
            raise SchemaError(f"{path}.tags", "it must be a non-empty list")
        by_trigger: dict[str, list[str]] = {}
        for i, tag in enumerate(tags):
            tag_path = f"{path}.tags[{i}]"
            begin = tag.get("begin") if isinstance(tag, dict) else None
            trigger = next((one for one in triggers if str(begin).startswith(one)), None)
            if trigger is None:
                raise SchemaError(f"{tag_path}.begin", "it does not start with any of the triggers")
            by_trigger.setdefault(trigger, []).append(self._add(self._tag(tag, tag_path, trigger)))
        options = [
            f"{self.until(trigger, 'FREE_TEXT')} ({' | '.join(rest)})" for trigger, rest in by_trigger.items()
        ]
        once = f"({' | '.join(options)})"
        if form.get("stop_after_first"):
            return once if form.get("at_least_one") else f"{once} | FREE_TEXT"
        return f"{once}{'+' if form.get('at_least_one') else '*'} FREE_TEXT"

    def _separated(self, form: dict[str, Any], path: str) -> str:
        tags = f"({' | '.join(self._elements(form, path, 'tags'))})"
        separator = self.literal(form.get("separator"), f"{path}.separator")
        whole = tags if form.get("stop_after_first") else f"{tags} ({separator} {tags})*"
        return whole if form.get("at_least_one") else f"({whole})?"

    def literal(self, text: Any, path: str = "", skip: int = 0) -> str:
        """Lark for a text without its first `skip` characters; empty for an empty one."""
        if not isinstance(text, str):
            raise SchemaError(path, "it must be a string")
        parts, start = [], skip
        for mark in self._marks.finditer(text, skip) if self._marks is not None else ():
            written = json.dumps(mark.group(), ensure_ascii=False)
            parts += [text[start : mark.start()], f"({written} | {_token(mark.group(), self._special)[0]})"]
            start = mark.end()
        parts.append(text[start:])
        parts[::2] = [json.dumps(part, ensure_ascii=False) if part else "" for part in parts[::2]]
        return " ".join(filter(None, parts))
