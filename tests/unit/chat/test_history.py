"""Earlier calls, tools and thinking in the form that a model family's template wants."""

import json
from typing import Any

import pytest

from trtllm_openai.chat.history import History, wanted_history
from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.template import ChatTemplate

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER: Message = {"role": "user", "content": "Hi"}


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def asked(*calls: dict[str, Any], **fields: Any) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **fields}


def told(call_id: str, content: str) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


OBJECTS = """{% for m in messages %}[{{ m.role }}]{% for c in m.tool_calls or [] %}
{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{{ m.content or '' }}{% endfor %}"""
# DeepSeek V3.1: arguments are added to a text
ADDED = """{% for message in messages %}{% if message['role'] == 'assistant' and message['tool_calls'] %}
{% for tool in message['tool_calls'] %}{{ '<｜tool▁call▁begin｜>' + tool['function']['name']
+ '<｜tool▁sep｜>' + tool['function']['arguments'] }}{% endfor %}{% else %}{{ message['content'] }}{% endif %}
{% endfor %}"""
# R1: as well, and a message with calls and content is written twice
TWICE = ADDED.replace(
    "{% else %}", "{% endif %}{% if message['content'] is not none %}{{ '<｜Assistant｜>' }}"
)
# vLLM's for Phi-4-mini: an object would be written as Python writes it
SHOWN = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{{ c.function.arguments }}{% endfor %}{% endfor %}"""
# Kimi K2: either is taken, and content must be there
EITHER = """{% for m in messages %}{{ m.content + '' }}{% for c in m.tool_calls or [] %}{{
c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}{% endfor %}
{% endfor %}"""
# gpt-oss
ONE = """{% for message in messages %}{% if message.tool_calls %}{{ message.thinking or '' }}
{{ message.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}{{ tools }}"""
# Phi-4-mini
OF_MESSAGE = """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and
message['tools'] is not none %}{{ message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}
{% else %}{{ message['content'] }}{% endif %}{% endfor %}"""


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{{ messages[0].content }}", History()),
        (OBJECTS, History()),
        (ADDED, History(arguments_as_text=True)),
        (TWICE, History(arguments_as_text=True, no_content=True)),
        (SHOWN, History(arguments_as_text=True)),
        (EITHER, History()),
        (ONE, History(one_call=True, thinking=True)),
        (OF_MESSAGE, History(tools_of_message=True)),
        (OF_MESSAGE + "{% if tools %}{{ message.tools }}{% endif %}", History()),
        ("{% if messages[1].tool_calls %}{{ raise_exception('No calls.') }}{% endif %}", History()),
        ("{{ messages[1].tool_calls }}{% for i in range(3000) %}.{% endfor %}", History()),
    ],
)  # fmt: skip
def test_what_a_template_wants(source: str, wanted: History) -> None:
    assert wanted_history(ChatTemplate(source, {}), source) == wanted


def test_adapted_messages_are_rendered() -> None:
    for source in (ADDED, TWICE):
        template = ChatTemplate(source, {})
        wanted = wanted_history(template, source)
        text = template.render(wanted.adapted([USER, asked(call("1", city="서울"))], (TOOL,)))
        assert 'weather<｜tool▁sep｜>{"city": "서울"}' in text
        assert text.count("<｜Assistant｜>") == (source == TWICE)  # the user's message


def test_the_clients_messages_are_not_changed() -> None:
    messages = [USER, asked(call("1", city="a"), call("2"), reasoning_content="Hm")]
    before = json.dumps(messages)
    History(True, True, True, True, True).adapted(messages, (TOOL,))
    assert json.dumps(messages) == before


def test_text_of_truncated_arguments_stays() -> None:
    broken = {"id": "1", "function": {"name": "f", "arguments": '{"a": '}}
    (message,) = History(arguments_as_text=True).adapted([asked(broken)], ())
    assert message["tool_calls"] == [broken]


def test_parallel_calls_one_by_one() -> None:
    first, second = call("1"), call("2")
    adapted = History(one_call=True).adapted(
        [USER, asked(first, second, reasoning_content="Hm"), told("2", "two"), told("1", "one"), USER], ()
    )
    assert [one.get("tool_calls", one["content"]) for one in adapted] == [
        "Hi",
        [first],
        "one",
        [second],
        "two",
        "Hi",
    ]
    assert [one.get("reasoning_content") for one in adapted if one["role"] == "assistant"] == ["Hm", None]


def test_results_of_unknown_calls_are_kept() -> None:
    adapted = History(one_call=True).adapted(
        [asked(call("1"), call("2")), told("9", "nine"), told("1", "one")], ()
    )
    assert [one["content"] for one in adapted] == ["", "one", "", "nine"]


def test_reasoning_is_thinking_where_there_is_no_content() -> None:
    messages = [
        asked(call("1"), reasoning_content="Hm"),
        asked(call("2"), reasoning_content="Hm", content="So"),
    ]
    adapted = History(thinking=True).adapted(messages, ())
    assert [one.get("thinking") for one in adapted] == ["Hm", None]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_tools_of_the_system_message(system: list[Message]) -> None:
    template = ChatTemplate(OF_MESSAGE, {})
    wanted = wanted_history(template, OF_MESSAGE)
    text = template.render(wanted.adapted([*system, USER], (TOOL,)))
    assert '<|tool|>[{"name": "weather"' in text
    assert ("Be brief." in text) == bool(system)
    assert wanted.adapted([*system, USER], ()) == [*system, USER]
