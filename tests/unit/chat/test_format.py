"""One model's chat format: which template, tool calls and thinking it has, and what a prompt becomes."""

import copy
from typing import Any

import pytest

from trtllm_openai.chat.format import ChatFormat, Prompt
from trtllm_openai.chat.tools import NO_TOOLS, plan_tools
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
def subject(demo_tokenizer: Tokenizer) -> ChatFormat:
    return ChatFormat(demo_tokenizer, "auto", "auto")


def test_a_template_without_tools_gets_them_in_words(subject: ChatFormat) -> None:
    prompt = subject.render([USER], plan_tools([TOOL], None, None)).text
    assert '"name": "weather"' in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    assert "weather" not in subject.render([USER]).text


def test_the_last_message_is_continued(subject: ChatFormat) -> None:
    begun = {"role": "assistant", "content": "The answer is "}
    prompt = subject.render([USER, begun], continue_final_message=True)
    assert prompt.text.endswith("<|im_start|>assistant\nThe answer is ")
    assert prompt.continued == "The answer is "
    assert subject.render([USER, begun]).continued is None


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "tools",
        "add_generation_prompt",
        "chat_template",
        "self",
        "raise_exception",
        "strftime_now",
        "bos_token",
        "eos_token",
        "namespace",
    ],
)
def test_the_servers_own_variables_cannot_be_set(subject: ChatFormat, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        subject.render([USER], variables={name: 1})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_plain_text_needs_no_parser(subject: ChatFormat) -> None:
    assert subject.output(Prompt("…"), NO_TOOLS, guided=False) is None
    assert subject.output(Prompt("…"), plan_tools([TOOL], None, None), guided=False) is not None
    assert subject.output(Prompt("…"), plan_tools([TOOL], "required", None), guided=True) is not None


def test_a_configured_reasoning_format_wins_over_the_template(demo_tokenizer: Tokenizer) -> None:
    chat = ChatFormat(demo_tokenizer, "none", "think")
    assert (chat.tool_format, chat.reasoning_format) == (None, "think")
    opened = chat.output(Prompt("…<think>", thinking="open"), NO_TOOLS, guided=False)
    closed = chat.output(Prompt("…", thinking="possible"), NO_TOOLS, guided=False)
    assert opened is not None
    assert closed is not None
    assert (opened.in_reasoning, closed.in_reasoning) == (True, False)
    over = Prompt("…<think></think>\n", thinking="over")
    assert chat.output(over, NO_TOOLS, guided=True) is None


@pytest.mark.parametrize(
    ("variables", "end", "state"),
    [
        ({}, "", "possible"),
        ({"enable_thinking": False}, "", "over"),
        ({}, "<think>\n", "open"),
        ({}, "<think></think>\n", "over"),
    ],
)
def test_a_prompt_says_whether_thinking_begins(
    demo_tokenizer: Tokenizer, variables: dict[str, Any], end: str, state: str
) -> None:
    tokenizer = copy.copy(demo_tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}" + end
    assert ChatFormat(tokenizer, "none", "think").render([USER], variables=variables).thinking == state


def test_thinking_that_is_continued_is_thinking(demo_tokenizer: Tokenizer) -> None:
    chat = ChatFormat(demo_tokenizer, "none", "think")
    for text, within in (
        ("<think>\nLet me", True),
        ("<think>a</think>So", False),
        ("a</think>So", False),
        ("So", False),
    ):
        begun = {"role": "assistant", "content": text}
        prompt = chat.render([USER, begun], continue_final_message=True)
        output = chat.output(prompt, NO_TOOLS, guided=False)
        assert prompt.text.endswith(f"<|im_start|>assistant\n{text}")
        assert output is not None
        assert output.in_reasoning == within


def test_the_developer_is_the_system_unless_the_template_knows_it(demo_tokenizer: Tokenizer) -> None:
    """The template of the demo writes any role."""
    message = {"role": "developer", "content": "Be brief."}
    prompt = ChatFormat(demo_tokenizer, "none", "none").render([message, USER]).text
    assert prompt.startswith("<|im_start|>system\nBe brief.")
    for role in ("ipython", "document"):
        late = {"role": role, "content": "3 files"}
        prompt = ChatFormat(demo_tokenizer, "none", "none").render([USER, late]).text
        assert f"<|im_start|>{role}\n3 files<|im_end|>" in prompt
