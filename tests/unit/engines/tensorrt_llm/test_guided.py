"""Guides as XGrammar gets them: thinking before them, and calls beside a form, are structural tags."""

import json
from typing import Any

import pytest

from trtllm_openai.chat.parsers import TOOL_FORMATS, harmony_form
from trtllm_openai.chat.parsers.call_forms import CallableTool, json_part
from trtllm_openai.chat.parsers.tag_forms import either
from trtllm_openai.engines.tensorrt_llm.guide_compiler import Setup, make_compiler, reason
from trtllm_openai.engines.tensorrt_llm.guided import as_compiled, guide_text
from trtllm_openai.generation import Guide, Thinking

xgrammar = pytest.importorskip("xgrammar")

END = 256
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMS = {
    "json_object": Guide("json_object", param="p"),
    "json_schema": Guide("json_schema", json.dumps(SCHEMA), "p"),
    "regex": Guide("regex", r'\{"n": [0-9]\}', "p"),
    "grammar": Guide("grammar", 'root ::= "{\\"n\\": 1}"', "p"),
    "structural_tag": Guide("structural_tag", json.dumps({"format": json_part(SCHEMA)}), "p"),
}
TOOLS = [CallableTool(name, json_part(SCHEMA)) for name in ("f", "g")]
CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>',
    "llama3_json": '{"name": "f", "parameters": {"n": 1}}',
    "mistral": '[TOOL_CALLS][{"name": "f", "arguments": {"n": 1}}]',
    "pythonic": "[f(n=1)]",
}


@pytest.fixture(scope="module")
def compiler() -> Any:
    return make_compiler(Setup([*(bytes([byte]) for byte in range(256)), b""], 257, [END]))


def allowed(compiler: Any, guide: Guide, text: str) -> bool:
    """Whether the whole text can be written, and end there."""
    compiled = as_compiled(guide)
    try:
        if compiled.kind == "structural_tag":
            grammar = compiler.compile_structural_tag(guide_text(compiled))
        else:
            grammar = compiler.compile_json_schema(guide_text(compiled))
    except RuntimeError as error:
        pytest.fail(reason(error))
    matcher = xgrammar.GrammarMatcher(grammar)
    return all(map(matcher.accept_token, text.encode())) and matcher.accept_token(END)


def thinking(guide: Guide, *, opened: bool) -> Guide:
    thought = Thinking("<think>", "</think>", (), opened)
    return Guide(guide.kind, guide.text, guide.param, thinking=thought)


def test_a_guide_without_thinking_stays_as_it_is() -> None:
    assert as_compiled(FORMS["json_object"]) is FORMS["json_object"]
    assert guide_text(FORMS["json_object"]) == '{"type":"object"}'


@pytest.mark.parametrize("kind", FORMS)
def test_thinking_is_free_until_its_end(compiler: Any, kind: str) -> None:
    opened, possible = (thinking(FORMS[kind], opened=one) for one in (True, False))
    assert allowed(compiler, opened, 'so { <thi</think>\n\n{"n": 1}')
    assert not allowed(compiler, opened, '{"n": 1}')
    assert not allowed(compiler, opened, "so</think>yes")
    assert allowed(compiler, possible, '<think>so {</think>{"n": 1}')
    assert allowed(compiler, possible, '{"n": 1}')
    assert not allowed(compiler, possible, "so")


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_calls_or_a_form(compiler: Any, name: str, parallel: bool) -> None:
    form = TOOL_FORMATS[name].form
    assert form is not None
    part = either(form.calls(TOOLS, parallel=parallel), json_part(SCHEMA))
    guide = thinking(Guide("structural_tag", json.dumps({"format": part}), "p"), opened=True)
    for text in (CALLS[name], '{"n": 1}'):
        assert allowed(compiler, guide, f"hm</think>\n{text}")
    assert not allowed(compiler, guide, "hm</think>so")
    assert not allowed(compiler, guide, "hm</think>" + CALLS[name].replace("1", '"1"'))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_began_is_held(compiler: Any, name: str, parallel: bool) -> None:
    form = TOOL_FORMATS[name].form
    assert form is not None
    part = {
        "type": "triggered_tags",
        "triggers": form.triggers(TOOLS),
        "tags": form.tags(TOOLS, parallel=parallel),
        "at_least_one": False,
        "stop_after_first": not parallel,
    }
    guide = thinking(Guide("structural_tag", json.dumps({"format": part}), "p"), opened=False)
    assert allowed(compiler, guide, "plain text")
    assert allowed(compiler, guide, f"<think>{CALLS[name][:9]}</think>so {CALLS[name]}")
    assert not allowed(compiler, guide, CALLS[name].replace("1", '"1"'))


@pytest.mark.parametrize("opened", [False, True])
def test_a_form_or_a_call_on_channels_follows_thinking(compiler: Any, opened: bool) -> None:
    """gpt-oss's, whose thinking is one message here."""
    forms = [json_part(SCHEMA)]
    part = harmony_form.demanded(forms, TOOLS, thinks=True, thinking=opened, within=False, once=True)
    guide = Guide("structural_tag", json.dumps({"format": part}), "p")
    thought = ("" if opened else "<|channel|>analysis<|message|>") + "so { <|en<|end|><|start|>assistant"
    for last in (
        '<|channel|>final<|message|>{"n": 1}',
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"n": 1}',
        ' to=functions.g<|channel|>commentary json<|message|>{"n": 1}',
    ):
        assert allowed(compiler, guide, thought + last)
        assert allowed(compiler, guide, last) != opened
        assert not allowed(compiler, guide, thought + last.replace("1", '"1"'))
    assert not allowed(compiler, guide, thought + "so")
