"""A model family as a whole: its template names its formats, and its special tokens reach the parsers.

The templates are short ones that carry the marks of the families' own.
"""

from typing import Any

import pytest
import tokenizers

from tests.unit.chat.parsing import calls_of, content_of
from trtllm_openai.chat.format import ChatFormat, Prompt
from trtllm_openai.chat.parsers import REASONING, TOOL_FORMATS
from trtllm_openai.chat.parsers.written_calls import WrittenCalls
from trtllm_openai.chat.tools import plan_tools
from trtllm_openai.generation import StepOutput
from trtllm_openai.text.choice import ChoiceDecoder, TextRules
from trtllm_openai.text.events import Event, Reasoning, merged
from trtllm_openai.text.tokenizer import Tokenizer

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
USER = {"role": "user", "content": "Hi"}
START = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[-1].content }}"
FAMILIES = {
    "deepseek_v3": (START + "<｜tool▁calls▁begin｜>```json<think></think>", "think", "<think>Hm</think>"),
    "deepseek_v31": (START + "<｜tool▁calls▁begin｜></think><think>", "think", "Hm</think>"),
    "qwen3_coder": (START + "<function=f><parameter=a>", None, ""),
    "glm45": (START + "<arg_key></arg_key><arg_value><think></think>", "think", "\n<think>Hm</think>\n"),
    "kimi_k2": (START + "<|im_system|>tool_declare<think></think>", "think", "<think>Hm</think>"),
    "harmony": (
        START + "<|channel|>analysis<|message|><|channel|>commentary<|end|><|start|>assistant",
        "harmony",
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant",
    ),
    "granite": (
        START + "<|start_of_role|>between <think></think> and <response></response>",
        "granite_tags",
        "<think>Hm</think><response>",
    ),
    "granite_20b": (START + "<function_call> ", None, ""),
    "phi4_mini": (START + "functools[", None, ""),
    "functiongemma": (START + "<start_function_call>", None, ""),
    "gemma4": (
        START + "<|tool_call><|channel>thought<channel|>",
        "gemma4",
        "<|channel>thought\nHm<channel|>",
    ),
}


@pytest.fixture(scope="module")
def backend(demo_tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The demo's tokenizer with every mark as a special token, which texts leave out unless asked to."""
    backend = tokenizers.Tokenizer.from_str(demo_tokenizer._backend.to_str())
    marks = {mark for form in TOOL_FORMATS.values() for mark in form.markers}
    marks |= {mark for form in REASONING.values() for mark in form.markers}
    backend.add_special_tokens(sorted(mark for mark in marks if mark[0] in "<["))
    return backend


def answer(chat: ChatFormat, tokenizer: Tokenizer, text: str, tools: list[dict[str, Any]]) -> list[Event]:
    """The events of a response with this text, token by token."""
    plan = plan_tools(tools, None, None)
    prompt = chat.render([USER], plan)
    parser = chat.output(prompt, plan, guided=False)
    decoder = ChoiceDecoder(tokenizer, TextRules(visible_special_ids=prompt.markers), parser)
    events: list[Event] = []
    ids = tokenizer.encode(text, add_special_tokens=False)
    for place, token in enumerate(ids):
        last = place == len(ids) - 1
        delta = decoder.push(StepOutput("r", [token], finish_reason="stop" if last else None))
        events += delta.events
    return merged(events)


def reasoning_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Reasoning)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name: str, backend: tokenizers.Tokenizer) -> None:
    template, tags, thought = FAMILIES[name]
    tokenizer = Tokenizer(backend, chat_template=template)
    chat = ChatFormat(tokenizer, "auto", "auto")
    assert (chat.tool_format, chat.reasoning_format) == (name, tags)
    form = TOOL_FORMATS[name].form
    assert isinstance(form, WrittenCalls)
    events = answer(chat, tokenizer, thought + form.write([("f", {"a": "5 <b>"})]), [TOOL])
    assert calls_of(events) == [("f", {"a": "5 <b>"})]
    assert reasoning_of(events) == (["Hm"] if tags else [])
    assert content_of(events) == ""


@pytest.mark.parametrize("name", ["deepseek_v3", "kimi_k2"])
def test_a_call_ends_thinking_without_its_end_tag(name: str, backend: tokenizers.Tokenizer) -> None:
    template, _, thought = FAMILIES[name]
    tokenizer = Tokenizer(backend, chat_template=template)
    form = TOOL_FORMATS[name].form
    assert isinstance(form, WrittenCalls)
    text = thought.removesuffix("</think>") + form.write([("f", {"a": "x"})])
    events = answer(ChatFormat(tokenizer, "auto", "auto"), tokenizer, text, [TOOL])
    assert (reasoning_of(events), calls_of(events)) == (["Hm"], [("f", {"a": "x"})])


def test_channels_without_tools(backend: tokenizers.Tokenizer) -> None:
    template, _, thought = FAMILIES["harmony"]
    tokenizer = Tokenizer(backend, chat_template=template)
    text = f"{thought}<|channel|>final<|message|>Yes."
    for parsers, expected in ((("auto", "auto"), ["Hm"]), (("none", "auto"), ["Hm"]), (("auto", "none"), [])):
        events = answer(ChatFormat(tokenizer, *parsers), tokenizer, text, [])
        assert reasoning_of(events) == expected
        assert content_of(events) == ("Yes." if expected else "Hm\nYes.")


def test_reasoning_within_channels_is_counted(backend: tokenizers.Tokenizer) -> None:
    template, _, _ = FAMILIES["harmony"]
    chat = ChatFormat(Tokenizer(backend, chat_template=template), "auto", "auto")
    parser = chat.output(Prompt("<|start|>assistant"), plan_tools([TOOL], None, None), guided=False)
    assert parser is not None
    inside = []
    for piece in ("<|channel|>analysis<|message|>", "Hm", "<|end|>"):
        parser.push(piece)
        inside.append(parser.in_reasoning)
    assert inside == [True, True, False]


def test_arguments_in_the_history_are_text_for_deepseek(backend: tokenizers.Tokenizer) -> None:
    template = (
        "{{ tools }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ '<｜tool▁calls▁begin｜>' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    chat = ChatFormat(Tokenizer(backend, chat_template=template), "auto", "auto")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":  "서울"}'}}
    prompt = chat.render([USER, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert prompt.text.endswith('<｜tool▁calls▁begin｜>{"a": "서울"}')
