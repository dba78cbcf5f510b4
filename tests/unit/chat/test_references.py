"""References of a schema that becomes a part of a larger one."""

from typing import Any

import jsonschema
import pytest

from trtllm_openai.chat.parsers.references import rebased

SCHEMAS: list[dict[str, Any]] = [
    {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1]}}},
    {"properties": {"a": {"$ref": "#x"}}, "$defs": {"x/y%": {"$anchor": "x", "enum": [1]}}},
    {"properties": {"b": {"$anchor": "x", "enum": [1]}, "a": {"$ref": "#x"}}},
    {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"enum": [1]}}},
    {"properties": {"a": {"$ref": "#/anyOf/0"}}, "anyOf": [{"$anchor": "b", "maximum": 1}, {}]},
    {"$id": "http://a.b/c", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1]}}},
    {
        "$id": "http://a.b/c#",
        "properties": {"a": {"$ref": "http://a.b/c#x"}},
        "$defs": {"x": {"$anchor": "x", "enum": [1]}},
    },
    {"$id": "http://a.b/c", "properties": {"a": {"anyOf": [{"enum": [1]}, {"$ref": "http://a.b/c"}]}}},
    {"properties": {"a": {"enum": [1]}, "$anchor": {}, "$ref": {"type": "string"}, "enum": {"$ref": "#"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_it_demands_the_same_at_its_new_place(schema: dict[str, Any]) -> None:
    """Beside another one with the same names."""
    other = {"$defs": {"x": {"$anchor": "x", "enum": [2]}}, "properties": {"a": {"$ref": "#x"}}}
    parts = {"one": rebased(schema, "#/$defs/one"), "two": rebased(other, "#/$defs/two")}
    whole = {"$ref": "#/$defs/one", "$defs": parts}
    alone = rebased(schema)
    for value in ({"a": 1}, {"a": 2}, {"a": "x"}, {"enum": {"a": 2}}, {"enum": {"a": 1}}):
        fits = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert jsonschema.Draft202012Validator(whole).is_valid(value) == fits
        assert jsonschema.Draft202012Validator(alone).is_valid(value) == fits


def test_values_are_data() -> None:
    value = {"$ref": "#/x", "$anchor": "x", "$id": "y"}
    schema = {"enum": [value], "const": value, "default": value, "examples": [value]}
    assert rebased({"items": schema}, "#/$defs/a") == {"items": schema}


def test_what_cannot_be_moved_stays() -> None:
    """Another document, a resource of its own, a name of nothing."""
    own = {"$id": "http://a.b/d", "$ref": "#/x"}
    schema = {"items": {"$ref": "http://a.b/e"}, "contains": own}
    assert rebased(schema, "#/$defs/a") == schema
    assert rebased({"$ref": "#lost"}, "#") == {"$ref": "#lost"}
    assert rebased(True, "#/a") is True
