"""Which JSON Schema keywords guides enforce, found out by trying, as a table for the documentation.

`python -m trtllm_openai.engines.torch.keywords docs/structured_output.md` replaces the text between the
page's two markers.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from trtllm_openai.engines.torch.guides import GuideMatcher, compile_guide, make_tokenizer
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.pages import Part

Standing = Literal["enforced", "refused", "ignored"]

A, OBJECT, ARRAY = {"a": {"type": "integer"}}, {"type": "object"}, {"type": "array"}
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "type": ({"type": "integer"}, "a"),
    "enum": ({"enum": [1, "a"]}, 2),
    "const": ({"const": 1}, 2),
    "properties": (OBJECT | {"properties": A}, {"a": "b"}),
    "required": (OBJECT | {"required": ["a"]}, {}),
    "additionalProperties": (OBJECT | {"additionalProperties": False}, {"a": 1}),
    "patternProperties": (OBJECT | {"patternProperties": {"^a": {"type": "integer"}}}, {"a": "b"}),
    "propertyNames": (OBJECT | {"propertyNames": {"pattern": "^a"}}, {"b": 1}),
    "minProperties": (OBJECT | {"minProperties": 1}, {}),
    "maxProperties": (OBJECT | {"maxProperties": 1}, {"a": 1, "b": 2}),
    "dependentRequired": (OBJECT | {"dependentRequired": {"a": ["b"]}}, {"a": 1}),
    "dependentSchemas": (OBJECT | {"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}),
    "dependencies": (OBJECT | {"dependencies": {"a": ["b"]}}, {"a": 1}),
    "unevaluatedProperties": (OBJECT | {"unevaluatedProperties": False}, {"a": 1}),
    "items": (ARRAY | {"items": {"type": "integer"}}, ["a"]),
    "prefixItems": (ARRAY | {"prefixItems": [{"type": "integer"}]}, ["a"]),
    "additionalItems": (ARRAY | {"items": [{}], "additionalItems": False}, [1, 2]),
    "minItems": (ARRAY | {"minItems": 1}, []),
    "maxItems": (ARRAY | {"maxItems": 1}, [1, 2]),
    "uniqueItems": (ARRAY | {"uniqueItems": True}, [1, 1]),
    "contains": (ARRAY | {"contains": {"type": "integer"}}, ["a"]),
    "minContains": (ARRAY | {"contains": {}, "minContains": 2}, [1]),
    "maxContains": (ARRAY | {"contains": {}, "maxContains": 1}, [1, 2]),
    "unevaluatedItems": (ARRAY | {"unevaluatedItems": False}, [1]),
    "minimum": ({"type": "number", "minimum": 2}, 1),
    "maximum": ({"type": "number", "maximum": 2}, 3),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 2}, 2),
    "exclusiveMaximum": ({"type": "number", "exclusiveMaximum": 2}, 2),
    "multipleOf": ({"type": "integer", "multipleOf": 3}, 4),
    "minLength": ({"type": "string", "minLength": 2}, "a"),
    "maxLength": ({"type": "string", "maxLength": 1}, "aa"),
    "pattern": ({"type": "string", "pattern": "^a"}, "b"),
    "format": ({"type": "string", "format": "date"}, "b"),
    "contentEncoding": ({"type": "string", "contentEncoding": "base64"}, "?"),
    "contentMediaType": ({"type": "string", "contentMediaType": "application/json"}, "{"),
    "allOf": ({"allOf": [{"type": "integer"}]}, "a"),
    "anyOf": ({"anyOf": [{"type": "integer"}]}, "a"),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, "a"),
    "oneOf (cases that overlap)": ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, 3),
    "not": ({"not": {"type": "integer"}}, 1),
    "if": ({"if": {"type": "integer"}, "then": {"minimum": 2}}, 1),
    "$ref": ({"$ref": "#/$defs/a", "$defs": A}, "a"),
    "$ref (to another document)": ({"$ref": "http://example.com/schema"}, "a"),
    "$anchor": ({"$ref": "#x", "$defs": {"a": {"$anchor": "x", "type": "integer"}}}, "a"),
    "$dynamicRef": ({"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x", "type": "integer"}}}, "a"),
    "$recursiveRef": (OBJECT | {"additionalProperties": {"$recursiveRef": "#"}}, {"a": 1}),
    "divisibleBy": ({"type": "integer", "divisibleBy": 3}, 4),
}
"""A schema with each keyword, and a document that the keyword forbids."""


class Validator:
    """Whether documents can be written under a schema, byte by byte."""

    def __init__(self) -> None:
        self._tokenizer = make_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 257, (256,))

    def compile(self, schema: Any) -> GuideMatcher:
        """Raises `InvalidRequest` if the schema is refused."""
        return compile_guide(self._tokenizer, Guide("json_schema", json.dumps(schema)), (256,), 1000.0)

    def writable(self, schema: Any, document: Any) -> bool:
        """Whether the document can be written. Raises `InvalidRequest`."""
        matcher = self.compile(schema)
        text = json.dumps(document, ensure_ascii=False).encode()
        return all(map(matcher.accept_token, text)) and (matcher.is_terminated() or matcher.accept_token(256))

    def standing(self, schema: Any, forbidden: Any) -> Standing:
        """The standing of a keyword, from a schema with it and a document that it forbids."""
        try:
            return "ignored" if self.writable(schema, forbidden) else "enforced"
        except InvalidRequest:
            return "refused"


def table() -> str:
    """The keywords as a Markdown table."""
    validator = Validator()
    found: dict[Standing, list[str]] = {"enforced": [], "refused": [], "ignored": []}
    for name, example in EXAMPLES.items():
        keyword, space, remark = name.partition(" ")
        found[validator.standing(*example)].append(f"`{keyword}`{space}{remark}")
    lines = ["| | keywords |", "|---|---|"]
    lines += [f"| {standing} | {', '.join(names)} |" for standing, names in found.items()]
    return "\n".join(lines)


PART = Part("keywords", "trtllm_openai.engines.torch.keywords", table)

if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
