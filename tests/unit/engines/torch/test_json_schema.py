"""Schemas before compilation: no-op keywords go, faults are named by their place."""

import json

import pytest

from trtllm_openai.engines.torch.json_schema import SchemaError, find_keyword, prepare, subschemas


def test_a_schema_without_no_ops_stays_as_it_is() -> None:
    text = '{"type":  "object", "properties": {"uniqueItems": {"type": "string"}}}'
    assert prepare(text) == text


def test_unique_items_false_is_dropped_only_where_it_is_a_keyword() -> None:
    schema = {
        "items": {"uniqueItems": False},
        "properties": {"uniqueItems": {}},
        "enum": [{"uniqueItems": False}],
    }
    assert json.loads(prepare(json.dumps(schema))) == {**schema, "items": {}}


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        ({"propertyNames": {"type": "string"}}, False),
        ({"propertyNames": {"type": ["null", "string"], "description": "Any name."}}, False),
        ({"propertyNames": True}, False),
        ({"propertyNames": {"type": "string", "minLength": 1}}, True),
        ({"propertyNames": {"type": "integer"}}, True),
        ({"propertyNames": False}, True),
        ({"propertyNames": {"enum": ["a"]}}, True),
        ({"unevaluatedProperties": {}, "unevaluatedItems": True}, False),
        ({"unevaluatedProperties": False}, True),
        ({"unevaluatedItems": {"type": "string"}}, True),
        ({"dependentRequired": {}, "dependentSchemas": {}, "dependencies": {}}, False),
        ({"dependentRequired": {"a": ["b"]}}, True),
        ({"not": False}, False),
        ({"not": {}}, True),
        ({"not": 0, "uniqueItems": 0}, True),  # no schema and no boolean, whatever Python says of 0
    ],
)
def test_a_keyword_that_demands_nothing_is_dropped(part: dict[str, object], kept: bool) -> None:
    schema = {"properties": {"a": {"type": "object", **part}}}
    assert json.loads(prepare(json.dumps(schema)))["properties"]["a"] == {
        "type": "object",
        **(part if kept else {}),
    }


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (False, ""),
        ({"properties": {"a": {"divisibleBy": 2}}}, ".properties.a.divisibleBy"),
        ({"allOf": [{"$ref": "#/x", "$id": "y"}]}, ".allOf[0].$ref"),
    ],
)
def test_a_fault_has_its_place(schema: object, path: str) -> None:
    with pytest.raises(SchemaError) as found:
        prepare(json.dumps(schema))
    assert found.value.path == path


def test_true_is_any_value() -> None:
    assert prepare("true") == "{}"


def test_a_keyword_is_found_in_schemas_and_not_in_values() -> None:
    schema = {
        "properties": {"not": {"const": {"not": 1}}},
        "additionalProperties": {"prefixItems": [{}, {"not": {}}]},
    }
    assert find_keyword(json.dumps(schema), "not") == ".additionalProperties.prefixItems[1].not"
    assert find_keyword(json.dumps(schema), "if") is None
    assert len(list(subschemas(schema))) == 6
