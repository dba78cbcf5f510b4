"""Structured output: the guide of a request, from whichever field, and errors that name the field."""

import json
from typing import Any

import pytest

from tests.unit.api.served import engine_info
from trtllm_openai.api.guides import MAX_GUIDE, find_guide, schema_guide
from trtllm_openai.api.schema_check import MAX_DEPTH
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities, Guide
from trtllm_openai.protocol.completions import CompletionRequest

ALL = Capabilities(guides=("json_object", "json_schema", "regex", "grammar", "structural_tag"))
SCHEMA = {"type": "object"}
JSON = Guide("json_schema", '{"type":"object"}')


def find(
    fields: dict[str, Any], capabilities: Capabilities = ALL, response_format: dict[str, Any] | None = None
) -> Guide | None:
    body = CompletionRequest(prompt="x", **fields)
    return find_guide(body, engine_info(capabilities=capabilities), response_format)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "kind", "text", "param"),
    [
        ({"guided_json": SCHEMA}, "json_schema", JSON.text, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", JSON.text, "guided_json"),
        ({"guided_regex": "a+"}, "regex", "a+", "guided_regex"),
        ({"guided_grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"', "guided_grammar"),
        ({"guided_choice": ["a", '"한']}, "grammar", r'root ::= "a" | "\"한"', "guided_choice"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", JSON.text, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a"}}, "regex", "a", "structured_outputs.regex"),
        ({"structured_outputs": {"json_object": True}}, "json_object", "", "structured_outputs.json_object"),
    ],
)
def test_every_field(fields: dict[str, Any], kind: Any, text: str, param: str) -> None:
    assert find(fields) == Guide(kind, text, param)


def test_response_format() -> None:
    assert find({}, response_format={"type": "text"}) is None
    assert find({}, response_format={"type": "json_object"}) == Guide("json_object", param="response_format")
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    guide = find({}, response_format=named)
    assert guide == Guide("json_schema", JSON.text, "response_format.json_schema.schema")
    with pytest.raises(InvalidRequest) as caught:
        find({}, response_format={"type": "yaml"})
    assert caught.value.param == "response_format.type"


BESIDE = "response_format.schema"


@pytest.mark.parametrize(
    ("response_format", "kind", "text", "param"),
    [
        ({"type": "json_object", "schema": SCHEMA}, "json_schema", JSON.text, BESIDE),
        ({"type": "json", "schema": SCHEMA}, "json_schema", JSON.text, BESIDE),
        ({"type": "json_schema", "schema": SCHEMA}, "json_schema", JSON.text, BESIDE),
        (
            {"type": "json_schema", "json_schema": SCHEMA},
            "json_schema",
            JSON.text,
            "response_format.json_schema",
        ),
        (SCHEMA, "json_schema", JSON.text, "response_format"),
        ({"type": "regex", "regex": "a+"}, "regex", "a+", "response_format.regex"),
        ({"type": "ebnf", "ebnf": 'root ::= "a"'}, "grammar", 'root ::= "a"', "response_format.ebnf"),
    ],
)
def test_response_formats_of_other_servers(
    response_format: dict[str, Any], kind: Any, text: str, param: str
) -> None:
    assert find({}, response_format=response_format) == Guide(kind, text, param)


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({}, "type"),
        ({"type": ["json"]}, "type"),
        ({"type": "json"}, "schema"),
        ({"type": "json", "schema": "{}"}, "schema"),
        ({"type": "json_object", "schema": {"type": "nothing"}}, "schema.type"),
        ({"type": "json_schema"}, "json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"items": 5}}, "json_schema.items"),
        ({"type": "array", "items": 5}, "items"),
        ({"type": "regex"}, "regex"),
        ({"type": "regex", "regex": ""}, "regex"),
        ({"type": "ebnf", "ebnf": 5}, "ebnf"),
        ({"type": "structural_tag"}, "format"),
    ],
)
def test_a_wrong_response_format_names_its_part(response_format: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find({}, response_format=response_format)
    assert caught.value.param == f"response_format.{param}"


def test_the_older_structural_tag_is_translated() -> None:
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
        "triggers": ["<f"],
    }
    guide = find({}, response_format=tag)
    assert guide is not None
    form = json.loads(guide.text)["format"]
    assert (form["type"], form["triggers"]) == ("triggered_tags", ["<f"])
    assert form["tags"][0]["content"] == {"type": "json_schema", "json_schema": SCHEMA}


def test_none_unless_asked() -> None:
    assert find({}) is None
    assert find({"guided_json": None, "structured_outputs": {"regex": None}}) is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex", "invalid_value"),
        ({"guided_regex": ""}, "guided_regex", "invalid_value"),
        ({"guided_regex": "a" * (MAX_GUIDE + 1)}, "guided_regex", "invalid_value"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens", "invalid_value"),
        ({"guided_choice": ["a", ""]}, "guided_choice", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": '{"properties": {"\\ud800": {}}}'}, "guided_json", "invalid_value"),
        ({"guided_json": "[1]"}, "guided_json", "invalid_type"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "unsupported_parameter"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex", "invalid_type"),
        ({"structured_outputs": {"choice": [5]}}, "structured_outputs.choice", "invalid_type"),
        (
            {"structured_outputs": {"structural_tag": {}}},
            "structured_outputs.structural_tag.format",
            "invalid_value",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find(fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_engine_without_the_kind() -> None:
    with pytest.raises(InvalidRequest) as caught:
        find({"guided_regex": "a"}, Capabilities(guides=("json_schema",)))
    assert (caught.value.param, caught.value.code) == ("guided_regex", "unsupported_parameter")


def test_a_schema_names_the_wrong_part() -> None:
    with pytest.raises(InvalidRequest) as caught:
        schema_guide({"properties": {"a": {"type": "strin"}}}, "s")
    assert (caught.value.param, caught.value.code) == ("s.properties.a.type", "invalid_schema")


def test_the_depth_of_a_schema_is_bounded() -> None:
    assert schema_guide(deep(MAX_DEPTH - 1), "s").kind == "json_schema"
    with pytest.raises(InvalidRequest, match="nested deeper than"):
        schema_guide(deep(MAX_DEPTH), "s")
