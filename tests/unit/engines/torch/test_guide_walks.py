"""The short form of `make json-schema-suite`: walks through the masks give valid documents, and those alone.

Each schema has documents that it allows, in its own order of properties, and documents that it forbids.
"""

import json
import random
from typing import Any

import jsonschema
import pytest

from scripts.json_schema_suite import walk
from trtllm_openai.engines.torch.keywords import Validator

OBJECT, ARRAY, STRING = {"type": "object"}, {"type": "array"}, {"type": "string"}
INTEGER = {"type": "integer"}
NODE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            **OBJECT,
            "properties": {"id": INTEGER, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["id", "next"],
            "additionalProperties": False,
        }
    },
}
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "any": ({}, [{}, [], "a", 0.5, None, True], []),
    "types": ({"type": ["integer", "null"]}, [0, -12, None], ["a", 1.5, False]),
    "bounds": ({**INTEGER, "minimum": -5, "exclusiveMaximum": 120}, [-5, 0, 119], [-6, 120, 1.5]),
    "number": ({"type": "number", "minimum": 0.25, "maximum": 3}, [0.25, 1, 2.99], [0.2, 3.1, -1]),
    "multiple": ({**INTEGER, "multipleOf": 7}, [0, 7, 700], [1, 8]),
    "length": ({**STRING, "minLength": 2, "maxLength": 4}, ["ab", '\n"', "a\\\tb"], ["", "a", "abcde"]),
    "pattern": ({**STRING, "pattern": '^[a-z"\\\\]+-[0-9]{2}$'}, ['a"b-12', "x\\-00"], ["-12", "a-1"]),
    "date": ({**STRING, "format": "date"}, ["2024-02-29"], ["2024-13-01", "today"]),
    "enum": ({"enum": ["a", 1, None, {"b": []}]}, ["a", 1, None, {"b": []}], ["b", 2]),
    "const": ({"const": "서울"}, ["서울"], ["부산"]),
    "object": (
        {
            **OBJECT,
            "properties": {"a": INTEGER, "b": STRING},
            "required": ["b"],
            "additionalProperties": False,
        },
        [{"a": 1, "b": "x"}, {"b": ""}],
        [{"a": 1}, {"b": 1}, {"b": "x", "c": 1}],
    ),
    "other properties": (
        {**OBJECT, "properties": {"a": INTEGER}, "additionalProperties": {"type": "boolean"}},
        [{}, {"a": 1, "z": True}, {"z": False}],
        [{"z": 1}, {"a": True}],
    ),
    "required alone": ({**OBJECT, "required": ["a", "b"]}, [{"a": 1, "b": None}], [{}, {"a": 1}]),
    "items": (
        {**ARRAY, "items": INTEGER, "minItems": 1, "maxItems": 3},
        [[1], [1, 2, 3]],
        [[], ["a"], [1] * 4],
    ),
    "at most": ({**ARRAY, "maxItems": 2}, [[], ["a", {}]], [[1, 2, 3]]),
    "tuple": (
        {**ARRAY, "prefixItems": [INTEGER, STRING], "items": False, "minItems": 2},
        [[1, "a"]],
        [[1], [1, 2]],
    ),
    "draft-07 tuple": ({**ARRAY, "items": [INTEGER], "additionalItems": False}, [[1], []], [["a"], [1, 1]]),
    "any of": ({"anyOf": [INTEGER, {**STRING, "maxLength": 1}]}, [1, "a"], ["ab", None]),
    "all of": ({"allOf": [{**INTEGER, "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6]),
    "any of beside": (
        {
            **OBJECT,
            "properties": {"a": INTEGER},
            "anyOf": [{"required": ["a"]}, {"properties": {"b": INTEGER}, "required": ["b"]}],
            "additionalProperties": INTEGER,
        },
        [{"a": 1}],
        [{}, {"a": "x"}],
    ),
    "recursion": (NODE, [{"id": 1, "next": {"id": 2, "next": None}}], [{"id": 1}, {"id": 1, "next": 2}]),
}
WALKS = 40


@pytest.fixture(scope="module")
def validator() -> Validator:
    return Validator()


@pytest.mark.parametrize("name", CASES)
def test_walks_are_valid_and_valid_documents_can_be_written(validator: Validator, name: str) -> None:
    schema, allowed, forbidden = CASES[name]
    check = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    if name == "draft-07 tuple":
        check = jsonschema.Draft7Validator
    checker = check(schema, format_checker=jsonschema.FormatChecker())
    assert all(map(checker.is_valid, allowed))
    assert not any(map(checker.is_valid, forbidden))
    assert [one for one in allowed if not validator.writable(schema, one)] == []
    assert [one for one in forbidden if validator.writable(schema, one)] == []
    rng = random.Random(7)
    texts = [walk(validator.compile(schema), rng) for _ in range(WALKS)]
    ended = [text for text in texts if text is not None]
    assert len(ended) > WALKS // 4
    for text in ended:
        checker.validate(json.loads(text))
