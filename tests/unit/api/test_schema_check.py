"""The table of keywords against the meta-schemas, applied by a validator."""

from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trtllm_openai.api.schema_check import MAX_DEPTH, schema_fault

VALUES = st.one_of(
    st.sampled_from(["string", "a", 1, 2.0, 0, -1, 1.5, True, False, None, [], {}, ["a"], ["a", "a"]]),
    st.sampled_from([["string", "null"], [{}], [1], {"a": {}}, {"a": ["b"]}, {"a": 1}, {"a": [1]}, "1x"]),
)
KEYWORDS = st.sampled_from(
    [
        "type",
        "enum",
        "examples",
        "maximum",
        "exclusiveMinimum",
        "multipleOf",
        "maxLength",
        "minItems",
        "maxProperties",
        "minContains",
        "uniqueItems",
        "deprecated",
        "$ref",
        "$anchor",
        "pattern",
        "format",
        "title",
        "required",
        "dependentRequired",
        "allOf",
        "anyOf",
        "prefixItems",
        "$defs",
        "properties",
        "patternProperties",
        "dependencies",
        "additionalProperties",
        "items",
        "not",
        "if",
        "x",
    ]
)


def nested(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.dictionaries(KEYWORDS, VALUES, max_size=3),
        st.builds(lambda name, one: {name: one}, st.sampled_from(["not", "items"]), schemas),
        st.builds(lambda one: {"properties": {"p": one}}, schemas),
        st.builds(lambda one, other: {"anyOf": [one, other]}, schemas, schemas),
    )


SCHEMAS = st.recursive(VALUES, nested, max_leaves=6)


@given(SCHEMAS)
@example({"type": ["string", "string"]})
@example({"properties": {"a": {"type": "strin"}}})
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_same_schemas_are_wrong(schema: Any) -> None:
    wrong = not jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA).is_valid(schema)
    assert (schema_fault(schema) is not None) == wrong


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"type": "strin"}}}, ".properties.a.type"),
        ({"anyOf": [{}, {"minLength": -1}]}, ".anyOf[1].minLength"),
        ({"anyOf": []}, ".anyOf"),
        ({"type": ["string", "no"]}, ".type[1]"),
        ({"required": ["a", 1]}, ".required[1]"),
        ({"items": [1]}, ".items"),
        ({"dependencies": {"a": [1]}}, ".dependencies.a[0]"),
        ([], ""),
        ({"maximum": True}, ".maximum"),
    ],
)
def test_a_fault_has_its_path(schema: Any, path: str) -> None:
    fault = schema_fault(schema)
    assert fault is not None
    assert fault[0] == path
    assert fault[1]


@pytest.mark.parametrize("draft", ["draft-04", "draft-07", "draft/2019-09"])
def test_older_drafts_keep_their_forms(draft: str) -> None:
    schema = {"$schema": f"http://json-schema.org/{draft}/schema#", "items": [{"type": "string"}]}
    assert schema_fault(schema) is None
    assert schema_fault({**schema, "items": [{"type": "no"}]}) is not None
    exclusive = {**schema, "minimum": 1, "exclusiveMinimum": True}
    assert (schema_fault(exclusive) is None) == (draft == "draft-04")


def test_depth_is_bounded() -> None:
    def deep(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels - 1):
            schema = {"not": schema}
        return schema

    assert schema_fault(deep(MAX_DEPTH)) is None
    assert schema_fault(deep(MAX_DEPTH + 1)) is not None
