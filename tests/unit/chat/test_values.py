"""Arguments written as text, and the schemas that say what they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.chat.parsers.values import as_json, property_types, string_piece

ROOT = {
    "properties": {
        "text": {"type": "string"},
        "maybe": {"type": ["string", "null"]},
        "any": {},
        "all": True,
        "listed": {"enum": ["a", 1]},
        "fixed": {"const": None},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "open": {"anyOf": [{"type": "string"}, {}]},
        "both": {"allOf": [{"description": "x"}, {"type": "boolean"}]},
        "named": {"$ref": "#/$defs/name~1x"},
        "lost": {"$ref": "#/$defs/nothing"},
        "anchor": {"$ref": "#name"},
        "away": {"$ref": "https://example.com/schema"},
        "loop": {"$ref": "#/$defs/loop"},
    },
    "$defs": {"name/x": {"type": "object"}, "loop": {"$ref": "#/$defs/loop"}},
}


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("text", {"string"}),
        ("maybe", {"string", "null"}),
        ("any", set()),
        ("all", set()),
        ("listed", {"string", "integer"}),
        ("fixed", {"null"}),
        ("either", {"string", "integer"}),
        ("open", set()),
        ("both", {"boolean"}),
        ("named", {"object"}),
        ("lost", set()),
        ("anchor", set()),
        ("away", set()),
        ("loop", set()),
        ("unknown", set()),
    ],
)
def test_types_of_a_property(name: str, types: set[str]) -> None:
    assert property_types(ROOT, name) == types


@pytest.mark.parametrize("schema", [None, True, {}, {"properties": []}, {"properties": {"text": 5}}, []])
def test_schemas_that_do_not_say(schema: Any) -> None:
    assert property_types(schema, "text") == set()


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", "", 5),
        ("5", "string", "5"),
        ("5", "number", 5),
        ("5.5", "integer", 5.5),  # a number in spite of its type
        ("5", "string null", "5"),
        ("null", "string null", None),
        ("null", "string", "null"),
        ("None", "null", None),
        ("True", "boolean", True),
        ("\ntrue\n", "boolean", True),
        ("yes", "boolean", "yes"),
        (' {"a": [1]} ', "object", {"a": [1]}),
        ("{'a': (1, None)}", "object", {"a": [1, None]}),
        ("{'a': ...}", "object", "{'a': ...}"),
        ("{'a': f(x)}", "", "{'a': f(x)}"),
        ('"quoted"', "", '"quoted"'),
        ("01", "", "01"),
        ("NaN", "number", "NaN"),
        ("1e999", "string", "1e999"),
        ("", "", ""),
        ("[" * 100_000, "", "[" * 100_000),
        ("a\n b", "", "a\n b"),
    ],
)
def test_text_as_json(text: str, types: str, value: object) -> None:
    assert json.loads(as_json(text, frozenset(types.split()))) == value


@given(st.text(), st.integers(0, 10))
def test_a_string_in_pieces(text: str, place: int) -> None:
    source = f'"{string_piece(text[:place])}{string_piece(text[place:])}"'
    assert json.loads(source) == text
