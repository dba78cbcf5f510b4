"""gpt-oss over HTTP: messages on channels, whole and streamed, on each route that has conversations."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.e2e.conftest import RunningServer, serve

MODEL = "gpt-oss"
TEMPLATE = """\
{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}\
{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}<|start|>assistant\
{# <|channel|>analysis<|message|> <|channel|>commentary #}"""
NEXT = "<|end|><|start|>assistant"
CALL = (
    f"<|channel|>analysis<|message|>I must look.{NEXT}<|channel|>commentary<|message|>One moment.{NEXT}"
    '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "한국"}'
)
FINAL = f"<|channel|>analysis<|message|>Nothing there.{NEXT}<|channel|>final<|message|>It is **empty**."
ARGUMENTS = {"at": "한국"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
Parts = tuple[str, str, list[tuple[str, Any]]]
"""Reasoning, content, calls with their arguments."""
EXPECTED: tuple[Parts, ...] = (
    ("I must look.", "One moment.", [("look", ARGUMENTS)]),
    ("Nothing there.", "It is **empty**.", []),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Says a call twice, and then an answer twice: whole, and streamed."""
    template = tmp_path_factory.mktemp("template") / "harmony.jinja"
    template.write_text(TEMPLATE)
    script = [word for text in (CALL, CALL, FINAL, FINAL) for word in ("--synthetic.script", text)]
    pace = ("--synthetic.ttft", "0", "--synthetic.itl", "0")
    flags = ("--chat-template", str(template), "--served-model-name", MODEL, "--log-level", "warning")
    with serve("--engine", "synthetic", *pace, *flags, *script) as running:
        yield running


def test_chat(server: RunningServer) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
    ask: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Look."}], "tools": tools}
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for expected in EXPECTED:
            answer = client.chat.completions.create(**ask)
            (choice,) = answer.choices
            assert choice.message.model_extra is not None
            calls = choice.message.tool_calls or []
            made = [
                (call.function.name, call.function.arguments) for call in calls if call.type == "function"
            ]
            whole = choice.message.model_extra["reasoning_content"], choice.message.content, made
            assert (*whole[:2], [(name, json.loads(text)) for name, text in made]) == expected
            assert choice.finish_reason == ("tool_calls" if expected[2] else "stop")
            assert answer.usage is not None
            assert answer.usage.completion_tokens_details is not None
            assert answer.usage.completion_tokens_details.reasoning_tokens

            reasoning, content, streamed = "", "", []
            for chunk in client.chat.completions.create(**ask, stream=True):
                (part,) = chunk.choices
                reasoning += (part.delta.model_extra or {}).get("reasoning_content") or ""
                content += part.delta.content or ""
                for call in part.delta.tool_calls or []:
                    assert call.function is not None
                    if call.id:
                        streamed.append((call.function.name, ""))
                    else:
                        name, text = streamed[call.index]
                        streamed[call.index] = name, text + (call.function.arguments or "")
            assert (reasoning, content, streamed) == whole


def _items(output: list[Any]) -> Parts:
    by_kind: dict[str, list[Any]] = {}
    for item in output:
        by_kind.setdefault(item.type, []).append(item)
    return (
        "".join(part.text for item in by_kind["reasoning"] for part in item.content),
        "".join(part.text for item in by_kind["message"] for part in item.content),
        [(item.name, json.loads(item.arguments)) for item in by_kind.get("function_call", [])],
    )


def test_responses(server: RunningServer) -> None:
    tools: Any = [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}]
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for expected in EXPECTED:
            assert _items(client.responses.create(model=MODEL, input="Look.", tools=tools).output) == expected
            with client.responses.stream(model=MODEL, input="Look.", tools=tools) as stream:
                assert _items(stream.get_final_response().output) == expected


def _blocks(content: list[Any]) -> Parts:
    return (
        "".join(block.thinking for block in content if block.type == "thinking"),
        "".join(block.text for block in content if block.type == "text"),
        [(block.name, block.input) for block in content if block.type == "tool_use"],
    )


def test_messages(server: RunningServer) -> None:
    ask: Any = {
        "model": MODEL,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "Look."}],
        "tools": [{"name": "look", "input_schema": SCHEMA}],
    }
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        for expected in EXPECTED:
            whole = client.messages.create(**ask)
            assert _blocks(whole.content) == expected
            assert whole.stop_reason == ("tool_use" if expected[2] else "end_turn")
            with client.messages.stream(**ask) as stream:
                assert _blocks(stream.get_final_message().content) == expected
