"""Strings between two marks: which texts a schema allows, and what cannot be held."""

import re
from typing import Any

import pytest

from tests.unit.chat.test_harmony_form import accepts
from trtllm_openai.chat.parsers.string_forms import NotHeldError, expanded, listed, string, whole_pattern


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({}, ["", "a\n<b", '"é'], []),
        ({"enum": ["a", "", "</v"]}, ["a", "", "</v"], ["b", "aa"]),
        ({"const": "x y"}, ["x y"], ["x"]),
        ({"minLength": 2}, ["ab", "é\n", "</"], ["", "a"]),
        ({"maxLength": 2}, ["", "ab", "é<"], ["abc"]),
        ({"pattern": "^[a-z]+$"}, ["abc"], ["", "a1"]),
        ({"pattern": "b"}, ["b", "abc\n"], ["", "ac"]),
        ({"pattern": "^a", "maxLength": 3}, ["a", "abc"], ["ba", "abcd"]),
        ({"$ref": "#/$defs/short", "minLength": 1}, ["a"], ["", "ab"]),
    ],
)
def test_what_is_allowed(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    root = {"$defs": {"short": {"type": "string", "maxLength": 1}}}
    check = accepts(string("<v>", {"type": "string", **schema}, "</v>", root, ""))
    for one in right:
        assert check(f"<v>{one}</v>"), one
    for one in wrong:
        assert not check(f"<v>{one}</v>"), one
    assert not check(f"<v>{right[0]}</v></v>"), "it ends with the first mark"


@pytest.mark.parametrize("keyword", ["format", "anyOf", "not"])
def test_a_keyword_that_cannot_be_held(keyword: str) -> None:
    schema = {"type": "string", "description": "any", keyword: "date"}
    with pytest.raises(NotHeldError) as caught:
        string("<v>", schema, "</v>", {}, ".properties.a")
    assert caught.value.path == f".properties.a.{keyword}"
    assert accepts(string("<v>", schema, "</v>", {"x-guidance": {"lenient": True}}, ""))("<v>x</v>")


@pytest.mark.parametrize(
    "pattern", ["^a$", "a", "^a", "a$", "a|b", "^(a|b)$", "[$^]", r"a\$", r"a\\$", "[)]a"]
)
@pytest.mark.parametrize("text", ["a", "b", "xa", "ax", "ab", "$", "a$", "a\\", ")a", ""])
def test_a_pattern_of_the_whole_text(pattern: str, text: str) -> None:
    assert bool(re.fullmatch(whole_pattern(pattern), text)) == bool(re.search(pattern, text))


@pytest.mark.parametrize("pattern", ["^a|b$", "a|b$", "(^a)", "a$b"])
def test_an_anchor_that_is_not_at_an_end(pattern: str) -> None:
    with pytest.raises(ValueError, match="anchor"):
        whole_pattern(pattern)


def test_listed_values_and_references() -> None:
    assert listed({"enum": ["a", 1]}) == ["a", 1]
    assert listed({"const": None}) == [None]
    assert listed({"enum": []}) is listed(True) is listed({"type": "string"}) is None
    loop = {"$ref": "#/$defs/a"}
    assert expanded(loop, {"$defs": {"a": loop}}) == loop
    assert expanded({"$ref": "#/$defs/lost", "type": "string"}, {}) == {"type": "string"}
