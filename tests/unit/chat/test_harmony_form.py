"""What the guide of gpt-oss's answers allows: messages on channels, whose last has the form or is a call."""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.chat.parsing import calls_of, content_of, feed
from tests.unit.chat.test_written_calls import SCHEMAS, TOOLS
from trtllm_openai.chat.parsers.harmony import Harmony
from trtllm_openai.chat.parsers.harmony_form import demanded, free
from trtllm_openai.chat.parsers.tag_forms import Part, json_part
from trtllm_openai.engines.torch.guides import compile_guide, make_tokenizer
from trtllm_openai.generation import Guide

NEXT = "<|end|><|start|>assistant"
THOUGHT = f"<|channel|>analysis<|message|>Hm.{NEXT}"
PREAMBLE = f"<|channel|>commentary<|message|>I look it up.{NEXT}"
FINAL = "<|channel|>final<|message|>"
FORM = json_part({"type": "object", "properties": {"ok": {"type": "boolean"}}, "additionalProperties": False})
RIGHT = '{"city": "x"}'
CALLS = [
    f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{RIGHT}",
    f"<|channel|>analysis to=functions.f code<|message|>{RIGHT}",
    f" to=functions.f<|channel|>commentary json<|message|>{RIGHT}",
    f"<|channel|>commentary to=functions.f<|message|>{RIGHT}",
]
WRONG_CALLS = [
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"city": 5}',
    "<|channel|>commentary to=functions.unknown<|message|>{}",
    "<|channel|>commentary to=browser.open<|message|>5",
]


END = 256
"""The end token, after the bytes."""


@functools.cache
def vocabulary() -> Any:
    return make_tokenizer([*(bytes([byte]) for byte in range(256)), b""], END + 1, (END,))


def accepts(form: Part) -> Callable[[str], bool]:
    """Whether a whole text has the form."""
    guide = Guide("structural_tag", json.dumps({"format": form}))

    def check(text: str) -> bool:
        matcher = compile_guide(vocabulary(), guide, (END,), 50.0)
        return all(map(matcher.accept_token, text.encode())) and matcher.accept_token(END)

    return check


def of(
    *forms: Part, thinks: bool = True, thinking: bool = False, within: bool = False, once: bool = False
) -> Callable[[str], bool]:
    return accepts(demanded(forms, TOOLS, thinks=thinks, thinking=thinking, within=within, once=once))


@pytest.mark.parametrize("before", ["", THOUGHT, THOUGHT * 3])
def test_a_form_or_a_call_ends_thinking(before: str) -> None:
    check = of(FORM)
    for last in (f'{FINAL}{{"ok": true}}', "<|channel|>final <|constrain|>json<|message|>{}", *CALLS):
        assert check(before + last), last
    for last in ("", f"{FINAL}Yes.", '{"ok": true}', f'{PREAMBLE}{FINAL}{{"ok": true}}', *WRONG_CALLS):
        assert not check(before + last), last


def test_one_message_of_thinking_at_most() -> None:
    last = f'{FINAL}{{"ok": true}}'
    assert of(FORM, once=True)(last)
    assert of(FORM, once=True)(THOUGHT + last)
    assert not of(FORM, once=True)(THOUGHT * 2 + last)
    assert not of(FORM, once=True, thinks=False)(THOUGHT + last)
    assert of(FORM, once=True, thinking=True)(f" and so{NEXT}{last}")
    assert not of(FORM, once=True, thinking=True)(last)


def test_thinking_that_is_content_is_not_allowed() -> None:
    check = of(FORM, thinks=False)
    assert check(FINAL + "{}")
    assert not check(THOUGHT + FINAL + "{}")


def test_a_prompt_that_ends_inside_of_a_message() -> None:
    assert of(FORM, thinking=True)(f" and so{NEXT}{THOUGHT}{FINAL}{{}}")
    assert not of(FORM, thinking=True)(f"{FINAL}{{}}")
    assert of(FORM, within=True)("{}")
    assert not of(FORM, within=True)(f"{FINAL}{{}}")
    assert of(within=True)(NEXT + CALLS[0])
    assert not of(within=True)(CALLS[0])


@pytest.mark.parametrize("before", ["", THOUGHT, THOUGHT + PREAMBLE, f"{FINAL}One.{NEXT}{THOUGHT}"])
def test_free_messages(before: str) -> None:
    check = accepts(free(TOOLS, inside=False))
    for last in (f"{FINAL}Yes.", "<|channel|>analysis<|message|>Hm", *CALLS):
        assert check(before + last), last
    for last in ("Yes.", f"{CALLS[0]} more", f"{FINAL}Yes.<|channel|>commentary", *WRONG_CALLS):
        assert not check(before + last), last


def test_the_rest_of_a_free_message() -> None:
    check = accepts(free(TOOLS, inside=True))
    assert check(" and so on.")
    assert check(f" and so on.{NEXT}{CALLS[0]}")
    assert not check(f" and so on.{NEXT}{WRONG_CALLS[0]}")


@pytest.mark.parametrize("call", CALLS)
def test_every_way_to_write_a_call_is_read(call: str) -> None:
    events = feed(Harmony(SCHEMAS), [THOUGHT + call])
    assert (calls_of(events), content_of(events)) == ([("f", {"city": "x"})], "")
