"""Structural tags: the texts that each form allows and forbids."""

import json
from typing import Any

import pytest

from trtllm_openai.engines.torch.guides import compile_guide, gbnf_grammar, make_tokenizer
from trtllm_openai.engines.torch.json_schema import SchemaError
from trtllm_openai.engines.torch.structural_tag import structural_tag_grammar
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.text.tokenizer import Tokenizer

INTEGER = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
CALL = {
    "type": "tag",
    "begin": "<f=x>",
    "content": {"type": "json_schema", "json_schema": INTEGER},
    "end": "</f>",
}
BOLD = {"type": "tag", "begin": "<b>", "content": {"type": "any_text"}, "end": "</b>"}
TRIGGERED = {"type": "triggered_tags", "triggers": ["<f"], "tags": [CALL]}


def allowed(tokenizer: Tokenizer, form: dict[str, Any], text: str) -> bool:
    """Whether the whole text can be written and may end there."""
    vocabulary = tokenizer.vocabulary()
    guide = Guide("structural_tag", json.dumps({"type": "structural_tag", "format": form}), "p")
    compiled_for = make_tokenizer(vocabulary, len(vocabulary), tokenizer.eos_token_ids)
    matcher = compile_guide(compiled_for, guide, tokenizer.eos_token_ids, 5.0)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return all(map(matcher.accept_token, tokens)) and matcher.accept_token(tokenizer.eos_token_ids[0])


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ({"type": "const_string", "value": "é\n\"x\""}, ["é\n\"x\""], ["é"]),
        ({"type": "regex", "pattern": "a/[0-9]{2}"}, ["a/12"], ["a/1", "a12"]),
        ({"type": "grammar", "grammar": 'root ::= "q"+'}, ["qq"], ["", "r"]),
        ({"type": "sequence", "elements": [{"type": "const_string", "value": "a"}, BOLD]},
         ["a<b>x < y</b>"], ["<b>x</b>", "a<b>x"]),
        ({"type": "or", "elements": [CALL, {"type": "const_string", "value": "no"}]},
         ["no", '<f=x>{"n": 1}</f>'], ["yes", '<f=x>{"n": "1"}</f>']),
        (TRIGGERED, ["", "prose", 'so <f=x>{"n": 1}</f> and <f=x>{"n": 2}</f>.'],
         ['<f=x>{"n": "1"}</f>', "<f=y>{}</f>"]),
        ({**TRIGGERED, "at_least_one": True, "stop_after_first": True},
         ['ok <f=x>{"n": 1}</f>'], ["ok", '<f=x>{"n": 1}</f> more']),
        ({"type": "tags_with_separator", "separator": ", ", "tags": [BOLD], "at_least_one": True},
         ["<b>1</b>, <b>2</b>"], ["", "<b>1</b><b>2</b>"]),
        ({"type": "tags_with_separator", "separator": ",", "tags": [BOLD], "stop_after_first": True},
         ["", "<b>1</b>"], ["<b>1</b>,<b>2</b>"]),
    ],
)  # fmt: skip
def test_forms(demo_tokenizer: Tokenizer, form: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert allowed(demo_tokenizer, form, text), text
    for text in bad:
        assert not allowed(demo_tokenizer, form, text), text


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ({"type": "dance"}, ".type"),
        ({"type": "sequence", "elements": [{"type": "regex"}]}, ".elements[0].pattern"),
        ({"type": "or", "elements": []}, ".elements"),
        ({**TRIGGERED, "triggers": ["<g"]}, ".tags[0].begin"),
        ({**TRIGGERED, "triggers": [""]}, ".triggers"),
        ({"type": "tag", "begin": 1}, ".begin"),
        (
            {"type": "json_schema", "json_schema": {"items": {"disallow": "null"}}},
            ".json_schema.items.disallow",
        ),
        ({"type": "grammar", "grammar": "root ::= ("}, ".grammar"),
    ],
)
def test_a_fault_has_its_place(form: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaError) as caught:
        structural_tag_grammar(Guide("structural_tag", json.dumps({"format": form})), gbnf_grammar)
    assert caught.value.path == f".format{path}"


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ({**TRIGGERED, "tags": [{**CALL, "content": {"type": "regex", "pattern": "(a"}}]},
         ".tags[0].content.pattern"),
        ({"type": "or", "elements": [CALL, {"type": "json_schema", "json_schema": {"not": {}}}]},
         ".elements[1].json_schema.not"),
        ({"type": "sequence", "elements": [{"type": "grammar", "grammar": "root ::= root"}, BOLD]},
         ".elements[0].grammar"),
    ],
)  # fmt: skip
def test_what_only_the_compiler_knows_has_its_place(
    demo_tokenizer: Tokenizer, form: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        allowed(demo_tokenizer, form, "")
    assert caught.value.param == f"p.format{path}"
