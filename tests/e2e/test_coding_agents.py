"""The requests that coding agents begin with, as those of tests/conformance were recorded to send them.

Fields, headers, kinds and numbers of tools, schema keywords and sizes are theirs; the words are not. Each
test sends the first request and then the second, with the result of the call, to an engine that says what it
is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer
from tests.e2e.scripted import CONTEXT, call, scripted

MODEL = "scripted"
ARGUMENTS = {"command": "ls", "timeout": 5}
SAID = "There are two files."
DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA: dict[str, Any] = {
    "$schema": DRAFT,
    "type": "object",
    "properties": {
        "command": {"type": "string", "description": "What to run.", "minLength": 1, "maxLength": 524_288},
        "timeout": {"type": "number", "minimum": 0, "maximum": 600_000, "default": 120},
        "count": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9_007_199_254_740_991},
        "mode": {"type": "string", "enum": ["read", "write"]},
        "state": {
            "anyOf": [{"type": "string", "enum": ["open", "done"]}, {"type": "string", "const": "gone"}]
        },
        "url": {"type": "string", "format": "uri"},
        "run": {"type": "string", "pattern": "^run_[a-z0-9-]{6,}$"},
        "args": {"description": "Anything."},
        "notes": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}},
        "blocks": {"type": "array", "items": {"type": "string"}, "maxItems": 32},
        "nested": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"line": {"type": "integer"}, "text": {"type": "string"}},
                "required": ["line"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["command"],
    "additionalProperties": False,
}


def words(count: int) -> str:
    """A text of about this many tokens."""
    return " ".join(f"part {index}" for index in range(count // 4))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with scripted(tmp_path, MODEL, "I look." + call("shell", **ARGUMENTS), SAID) as running:
        yield running


def post(server: RunningServer, path: str, body: object, headers: dict[str, str]) -> list[dict[str, Any]]:
    """Post and return the data of all events but `[DONE]`."""
    answer = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def test_claude_code(server: RunningServer) -> None:
    names = ["shell", *(f"Tool{index}" for index in range(23))]
    tools = [{"name": name, "description": words(600), "input_schema": SCHEMA} for name in names]
    forever = {"type": "ephemeral"}
    begun = [
        {"type": "text", "text": f"<system-reminder>\n{words(80)}\n</system-reminder>"},
        {"type": "text", "text": "Look."},
    ]
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "user", "content": [begun[0], {**begun[1], "cache_control": forever}]},
            {"role": "system", "content": words(1500)},
        ],
        "system": [
            {
                "type": "text",
                "text": "x-anthropic-billing-header: cc_version=2.1.0.abc; cc_entrypoint=sdk-cli;",
            },
            {"type": "text", "text": "You are an agent.", "cache_control": forever},
            {"type": "text", "text": words(1400), "cache_control": forever},
        ],
        "tools": tools,
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})},
        "max_tokens": 32_000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    }
    betas = (
        "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24"
    )
    headers = {
        "authorization": "Bearer none",
        "anthropic-beta": betas,
        "anthropic-dangerous-direct-browser-access": "true",
        "anthropic-version": "2023-06-01",
        "user-agent": "claude-cli/2.1.332 (external, sdk-cli)",
        "x-app": "cli",
        "x-claude-code-session-id": "s",
        "x-stainless-helper-method": "stream",
    }
    assert httpx.head(server.url, headers={"user-agent": "Bun/1.4.0"}).status_code == 200
    events = post(server, "/v1/messages?beta=true", body, headers)
    (start,) = of_type(events, "message_start")
    usage = start["message"]["usage"]
    assert 20_000 < usage["input_tokens"] < CONTEXT - 32_000
    text, tool = (event["content_block"] for event in of_type(events, "content_block_start"))
    assert (text["type"], tool["type"], tool["name"], tool["input"]) == ("text", "tool_use", "shell", {})
    deltas = [event["delta"] for event in of_type(events, "content_block_delta")]
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == ARGUMENTS
    (end,) = of_type(events, "message_delta")
    assert end["delta"]["stop_reason"] == "tool_use"
    assert end["usage"]["input_tokens"] == usage["input_tokens"]

    result = {"type": "tool_result", "tool_use_id": tool["id"], "content": "a b", "is_error": False}
    said = [{"type": "text", "text": "I look."}, {**tool, "input": ARGUMENTS}]
    second = {
        **body,
        "messages": [
            {"role": "user", "content": begun},
            body["messages"][1],
            {"role": "assistant", "content": said},
            {"role": "user", "content": [{**result, "cache_control": forever}]},
        ],
    }
    counted = {key: second[key] for key in ("model", "messages", "system", "tools", "thinking")}
    url = f"{server.url}/v1/messages/count_tokens?beta=true"
    tokens = (
        httpx.post(url, json=counted, headers=headers, timeout=60).raise_for_status().json()["input_tokens"]
    )
    events = post(server, "/v1/messages?beta=true", second, headers)
    (start,) = of_type(events, "message_start")
    assert start["message"]["usage"]["input_tokens"] >= tokens > usage["input_tokens"]
    pieces = [event["delta"]["text"] for event in of_type(events, "content_block_delta")]
    assert "".join(pieces) == SAID
    assert of_type(events, "message_delta")[0]["delta"]["stop_reason"] == "end_turn"


def test_codex(server: RunningServer) -> None:
    def function(name: str, size: int) -> dict[str, Any]:
        described = {"name": name, "description": words(size), "parameters": SCHEMA}
        return {"type": "function", **described, "strict": False}

    def message(role: str, *texts: str) -> dict[str, Any]:
        content = [{"type": "input_text", "text": text} for text in texts]
        return {"type": "message", "id": f"msg_{role}_{len(texts)}", "role": role, "content": content}

    agents = {"type": "namespace", "name": "agents_v1", "description": "To work with agents."}
    history = [
        message("developer", words(4000)),
        message("developer", words(500), words(90)),
        message("user", words(90)),
        message("user", "Look."),
    ]
    metadata = {"session_id": "s", "thread_id": "s", "turn_id": "t", "x-codex-turn-metadata": "{}"}
    body: dict[str, Any] = {
        "model": MODEL,
        "stream": True,
        "input": history,
        "tools": [
            function("shell", 100),
            *(function(f"tool_{index}", 100) for index in range(3)),
            {**agents, "tools": [function(f"agent_{index}", 400) for index in range(5)]},
            *(function(f"goal_{index}", 100) for index in range(3)),
            {"type": "web_search", "external_web_access": True},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "s",
        "client_metadata": metadata,
    }
    headers = {
        "accept": "text/event-stream",
        "originator": "codex_exec",
        "session-id": "s",
        "thread-id": "s",
        "user-agent": "codex_exec/0.171.0",
        "x-client-request-id": "s",
        "x-codex-beta-features": "remote_compaction_v2",
        "x-codex-turn-metadata": "{}",
    }
    events = post(server, "/v1/responses", body, headers)
    items = [event["item"] for event in of_type(events, "response.output_item.done")]
    text, called = items
    assert [part["text"] for part in text["content"]] == ["I look."]
    assert (called["type"], called["name"], json.loads(called["arguments"])) == (
        "function_call",
        "shell",
        ARGUMENTS,
    )
    first = of_type(events, "response.completed")[0]["response"]
    assert first["output"] == items

    output = {"type": "function_call_output", "id": "fco_1", "call_id": called["call_id"], "output": "a b"}
    events = post(server, "/v1/responses", {**body, "input": [*history, *items, output]}, headers)
    last = of_type(events, "response.completed")[0]["response"]
    assert last["output"][0]["content"][0]["text"] == SAID
    assert last["usage"]["input_tokens"] > first["usage"]["input_tokens"] > 8000


def test_opencode(server: RunningServer) -> None:
    names = ["shell", *(f"tool{index}" for index in range(9))]
    functions = [{"name": name, "description": words(400), "parameters": SCHEMA} for name in names]
    asked = [{"role": "system", "content": words(2400)}, {"role": "user", "content": "Look."}]
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 8192,
        "messages": asked,
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    agent = "opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14"
    headers = {
        "authorization": "Bearer none",
        "user-agent": agent,
        "x-session-affinity": "s",
        "x-session-id": "s",
    }
    chunks = post(server, "/v1/chat/completions", body, headers)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    calls = [one for delta in deltas for one in delta.get("tool_calls") or []]
    assert calls[0]["function"]["name"] == "shell"
    arguments = "".join(one["function"]["arguments"] for one in calls)
    assert json.loads(arguments) == ARGUMENTS
    usage = chunks[-1]["usage"]
    assert usage["prompt_tokens"] > 6000

    function = {"name": "shell", "arguments": arguments}
    said = {"role": "assistant", "content": "I look."}
    turns = [
        *asked,
        {**said, "tool_calls": [{"id": calls[0]["id"], "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "a b"},
    ]
    chunks = post(server, "/v1/chat/completions", {**body, "messages": turns}, headers)
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(pieces) == SAID
    assert chunks[-1]["usage"]["prompt_tokens"] > usage["prompt_tokens"]
