"""Demanded calls: XGrammar takes those that a format writes, and none that no tool allows."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import xgrammar

from tests.unit.chat.parsing import Call, calls_of, feed
from trtllm_openai.chat.parsers import TOOL_FORMATS
from trtllm_openai.chat.parsers.call_forms import CallableTool
from trtllm_openai.chat.parsers.tag_forms import Part, fields, json_part, text
from trtllm_openai.chat.parsers.written_calls import WrittenCalls

FORMATS: dict[str, WrittenCalls] = {
    name: one.form for name, one in TOOL_FORMATS.items() if isinstance(one.form, WrittenCalls)
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "f": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
            "where": {
                "type": "object",
                "properties": {"x": {"type": "number"}},
                "additionalProperties": False,
            },
            "list": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
    "nothing": {"type": "object", "properties": {}, "additionalProperties": False},
    "anything": {"type": "object"},
    "options": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "level": {"$ref": "#/$defs/level"}},
        "additionalProperties": False,
        "$defs": {"level": {"type": "integer"}},
    },
}
RIGHT: list[list[Call]] = [
    [("f", {"city": 'x "y"\n{<b>}, z', "days": 5, "unit": "C", "where": {"x": 1.5}, "list": ["a"]})],
    [("f", {"city": ""})],
    [("nothing", {})],
    [("anything", {"z": 1})],
    [("options", {})],
    [("options", {"level": 3})],
    [("options", {"on": True, "level": 3})],
]
WRONG: list[list[Call]] = [
    [("f", {"days": 5})],
    [("f", {"city": "x", "days": "five"})],
    [("f", {"city": "x", "unit": "K"})],
    [("nothing", {"q": 1})],
    [("unknown", {})],
    [("options", {"level": "high"})],
]

each_format = pytest.mark.parametrize("name", FORMATS)


TOOLS = [
    CallableTool(name, {"type": "json_schema", "json_schema": schema}) for name, schema in SCHEMAS.items()
]
END_TOKEN = 256


@functools.cache
def compiler() -> Any:
    """Of a vocabulary of bytes and one end token."""
    vocabulary = [f"<0x{byte:02X}>" if byte > 127 else chr(byte) for byte in range(256)]
    kind = xgrammar.VocabType.BYTE_FALLBACK
    return xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo([*vocabulary, "</s>"], kind, stop_token_ids=[END_TOKEN]), max_threads=1
    )


def accepts(form: Part) -> Any:
    """Whether a whole text has the form."""
    tag = json.dumps({"type": "structural_tag", "format": form})
    compiled = compiler().compile_structural_tag(tag)

    def check(written: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        return bool(matcher.accept_string(written) and matcher.accept_token(END_TOKEN))

    return check


@each_format
def test_a_demanded_call(name: str) -> None:
    form = FORMATS[name]
    check = accepts(form.calls(TOOLS, parallel=True))
    for calls in RIGHT:
        assert check(form.write(calls)), calls
        assert calls_of(feed(TOOL_FORMATS[name].parser(SCHEMAS), [form.write(calls)])) == calls
    for calls in WRONG:
        assert not check(form.write(calls)), calls
    assert not check("")
    assert not check("I will not.")
    assert not check(form.write(RIGHT[0]) + " Done.")


@each_format
def test_several_demanded_calls(name: str) -> None:
    form = FORMATS[name]
    two = form.write([("f", {"city": "x"}), ("nothing", {})])
    assert accepts(form.calls(TOOLS, parallel=True))(two) == form.several
    assert not accepts(form.calls(TOOLS, parallel=False))(two)


@each_format
def test_a_call_that_begins_in_text(name: str) -> None:
    form = FORMATS[name]
    tags = form.tags(TOOLS, parallel=True)
    triggers = form.triggers(TOOLS)
    assert all(any(tag["begin"].startswith(one) for one in triggers) for tag in tags)
    check = accepts({"type": "triggered_tags", "triggers": triggers, "tags": tags})
    assert check("Hello.")
    assert check("Let me see. " + form.write([("f", {"city": "x"})]))
    assert not check("Let me see. " + form.write([("f", {"days": 1})]))


def allowed(schema: dict[str, Any], separator: str) -> Iterator[str]:
    """Those of all texts of up to three fields, in the order of the schema, that a form of fields allows."""
    form = fields(schema, lambda name, one, root: text(name), separator)
    assert form is not None
    check = accepts(form)
    for size in range(8):
        chosen = [name for place, name in enumerate("abc") if size >> place & 1]
        if check(separator.join(chosen)):
            yield "".join(chosen)


@pytest.mark.parametrize("separator", ["", ","])
@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ("", {"", "a", "b", "c", "ab", "ac", "bc", "abc"}),
        ("a", {"a", "ab", "ac", "abc"}),
        ("abc", {"abc"}),
    ],
)
def test_required_fields_are_there(separator: str, required: str, expected: set[str]) -> None:
    schema = {"properties": {key: {} for key in "abc"}, "required": list(required)}
    assert set(allowed(schema, separator)) == expected


def test_required_fields_come_first_where_there_is_a_separator() -> None:
    schema = {"properties": {key: {} for key in "abc"}, "required": ["b"]}
    form = fields(schema, lambda name, one, root: text(name), ",")
    assert form is not None
    assert accepts(form)("b,a,c")
    assert not accepts(form)("a,b,c")


@pytest.mark.parametrize(
    "schema", [None, True, {}, {"properties": {}}, {"properties": 5}, {"$ref": "#/$defs/x"}]
)
def test_a_schema_that_names_no_properties(schema: Any) -> None:
    assert fields(schema, lambda name, one, root: text(name)) is None


def test_a_part_takes_the_definitions_of_the_whole_along() -> None:
    root = {"$defs": {"x": {"type": "integer"}}, "x-guidance": {"lenient": True}}
    assert json_part({"$ref": "#/$defs/x"}, root)["json_schema"] == {"$ref": "#/$defs/x", **root}
    assert json_part(True, root)["json_schema"] == root
    nowhere = {"$ref": "#/properties/x"}
    assert json_part(nowhere, root)["json_schema"] == root, "any JSON"
    assert json_part(nowhere, {})["json_schema"] == nowhere, "the engine refuses it"


def test_what_a_part_refers_to_becomes_a_definition() -> None:
    root = {
        "properties": {
            "depth": {"type": "integer"},
            "tree": {"properties": {"v": {"$ref": "#/properties/depth"}, "t": {"$ref": "#/properties/tree"}}},
        },
        "$defs": {"referred-0": {"type": "string"}},
    }
    part = json_part({"items": {"$ref": "#/properties/tree"}}, root)["json_schema"]
    jsonschema.validate([{"v": 1, "t": {"v": 2, "t": {}}}], part)
    for wrong in ([{"v": "1"}], [{"t": {"t": {"v": "1"}}}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, part)
