"""The last message goes on at its last character, whatever the template does to it."""

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.unit.chat.templates import FAMILIES, TOKENS
from trtllm_openai.chat.continuation import Continuation, check_continued, continue_last
from trtllm_openai.chat.messages import Message, normalise
from trtllm_openai.chat.odd_messages import render_all
from trtllm_openai.chat.parsers.reasoning import REASONING
from trtllm_openai.chat.template import ChatTemplate
from trtllm_openai.errors import InvalidRequest

THINK = REASONING["think"]
TEMPLATES = {name: ChatTemplate(source, TOKENS) for name, source in FAMILIES.items()}
TALK: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go on."}]
BEFORE = {
    "chatml": "<|im_start|>assistant\n",
    "headers": "[start]assistant[end]\n\n",
    "thinking": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "opened": "<Assistant>",
    "instructions": "[/INST] ",
    "documents": "<role>assistant</role>",
}
"""The text that each template writes right before the content of an assistant's last message."""


def draw(template: ChatTemplate, messages: list[Message], begin: bool) -> str:
    return render_all(
        messages, lambda shown: template.render(shown, {"add_generation_prompt": begin, "documents": None})
    )


def continued(family: str, **last: Any) -> Continuation:
    messages = normalise([*TALK, {"role": "assistant", **last}])
    return continue_last(messages, functools.partial(draw, TEMPLATES[family]), THINK)


PREFILLS = st.one_of(
    st.text(st.sampled_from(" \n\t{}\"'`<|>[]abé한")),
    st.sampled_from(["Sure, ", "```json\n", "\n\n", " ", "", "<|im_end|>", "{{ 1 }}", "Go on.", "mark"]),
    st.text(),
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)
@given(prefill=PREFILLS.filter(lambda text: THINK.begin not in text and THINK.end not in text))
def test_the_prompt_ends_with_the_text_to_the_character(family: str, prefill: str) -> None:
    found = continued(family, content=prefill)
    rest = draw(TEMPLATES[family], TALK, False)
    assert found.text == prefill
    assert found.prompt == rest + BEFORE[family].removeprefix("[/INST]") + prefill


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)
@given(thoughts=st.text("ab \n"), prefill=st.text("ab \n"), closed=st.booleans())
def test_thinking_in_the_content_is_continued_as_it_is(
    family: str, thoughts: str, prefill: str, closed: bool
) -> None:
    content = f"<think>{thoughts}</think>{prefill}" if closed else f"<think>{thoughts}"
    found = continued(family, content=content)
    assert found.text == content
    assert found.prompt.endswith(content)
    before = found.prompt.removesuffix(content)
    assert "think>" not in before, "the template has added nothing"
    assert "Go on." in before


def test_an_end_tag_alone_ends_what_the_template_has_begun() -> None:
    found = continued("opened", content="Two.</think>So ")
    assert found.prompt.endswith("<User>Go on.<Assistant><think>\nTwo.</think>So ")


@settings(deadline=None)
@given(thoughts=st.text("ab \n", min_size=1))
def test_reasoning_content_is_continued_where_there_is_no_content(thoughts: str) -> None:
    found = continued("thinking", content=None, reasoning_content=thoughts)
    assert found.prompt.endswith(f"<|im_start|>assistant\n<think>\n{thoughts}")
    assert found.text == f"<think>{thoughts}"
    whole = continued("thinking", content="So ", reasoning_content="Two.")
    assert whole.prompt.endswith("<think>\nTwo.\n</think>\n\nSo ")
    assert whole.text == "So "


@pytest.mark.parametrize(
    ("family", "last", "what"),
    [
        ("headers", {"reasoning_content": "Two."}, "reasoning_content"),
        ("nothing", {"content": "Sure"}, "content"),
    ],
)
def test_a_template_that_leaves_the_message_out(family: str, last: dict[str, Any], what: str) -> None:
    template = TEMPLATES.get(family) or ChatTemplate("{{ messages | length }}", TOKENS)
    messages = normalise([*TALK, {"role": "assistant", **last}])
    with pytest.raises(InvalidRequest, match=f"leaves out the {what} ") as caught:
        continue_last(messages, functools.partial(draw, template), THINK)
    assert caught.value.param == "continue_final_message"


@pytest.mark.parametrize("family", ["chatml", "headers", "thinking", "opened", "documents"])
def test_same_as_transformers_where_it_keeps_the_text(family: str, demo_dir: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(demo_dir)
    template = ChatTemplate(FAMILIES[family], {"bos_token": theirs.bos_token})
    messages = [*TALK, {"role": "assistant", "content": "Sure:"}]
    expected = theirs.apply_chat_template(
        messages, chat_template=FAMILIES[family], tokenize=False, continue_final_message=True
    )
    assert continue_last(messages, functools.partial(draw, template), THINK).prompt == expected


def test_a_message_of_another_role_is_continued() -> None:
    messages = normalise([{"role": "user", "content": "The <think> tag "}])
    found = continue_last(messages, functools.partial(draw, TEMPLATES["chatml"]), THINK)
    assert found.prompt == "<|im_start|>user\nThe <think> tag "


def test_calls_are_not_continued() -> None:
    for field, value in (("tool_calls", [{}]), ("function_call", {"name": "f"})):
        with pytest.raises(InvalidRequest) as caught:
            check_continued({"role": "assistant", field: value}, "messages[3]")
        assert caught.value.param == f"messages[3].{field}"
    check_continued({"role": "assistant", "content": "a", "tool_calls": []}, "messages[0]")
