"""What is promised about form holds every time: schemas at temperature 1, required tool calls.

A short form by default, with a few layers of the demo model; with CONFORMANCE=1 (`make conformance`) the
whole model gives 200 answers over 20 schemas and 100 calls.
"""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from tests.e2e.conftest import RunningServer

FULL = os.environ.get("CONFORMANCE") == "1"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> RunningServer:
    found: RunningServer = request.getfixturevalue("demo_server" if FULL else "server")
    return found


@pytest.fixture
def bias(terse: dict[str, float]) -> dict[str, float]:
    """The whole model ends its white space by itself."""
    return {} if FULL else terse


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


SHORT = {"type": "string", "maxLength": 20}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMAS: list[dict[str, Any]] = [
    closed({"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 150}}),
    closed({"ok": {"type": "boolean"}}),
    closed({"color": {"enum": ["red", "green", "blue", None, 3]}}),
    closed({"items": {"type": "array", "items": SHORT, "minItems": 1, "maxItems": 3}}),
    closed({"point": {"type": "array", "prefixItems": [DIGIT, DIGIT], "items": False, "minItems": 2}}),
    closed({"value": {"anyOf": [SHORT, DIGIT, {"type": "null"}]}}),
    closed({"outer": closed({"inner": closed({"deep": {"type": "boolean"}})})}),
    closed({"kind": {"const": "fixed"}, "n": DIGIT}),
    closed({"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}),
    closed({"node": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": closed({"id": DIGIT, "tag": SHORT})}}),
    {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4},
    {"enum": ["yes", "no", "maybe"]},
    {"type": "boolean"},
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "string", "minLength": 3, "maxLength": 10},
    closed({"이름": SHORT, "도시": {"enum": ["서울", "부산"]}}),
    closed({"date": {"type": "string", "format": "date"}}),
    closed(
        {
            "matrix": {
                "type": "array",
                "items": {"type": "array", "items": DIGIT, "maxItems": 2},
                "maxItems": 2,
            }
        }
    ),
    {
        "type": "object",
        "properties": {"a": DIGIT, "b": SHORT},
        "required": ["a"],
        "additionalProperties": False,
    },
    closed({"people": {"type": "array", "items": closed({"n": SHORT}), "minItems": 1, "maxItems": 2}}),
]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "pick_color", "parameters": SCHEMAS[2]}},
    {"type": "function", "function": {"name": "locate", "parameters": SCHEMAS[9]}},
    # Only the whole model ends an object that may hold anything.
    {
        "type": "function",
        "function": {"name": "ping"} if FULL else {"name": "ping", "parameters": closed({})},
    },
]


def generate(url: str, body: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
    """The message and its end, from a stream or whole."""
    if not streamed:
        choice = httpx.post(url + CHAT, json=body, timeout=120).raise_for_status().json()["choices"][0]
        calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
        return {"content": choice["message"]["content"], "calls": calls, "end": choice["finish_reason"]}
    found: dict[str, Any] = {"content": "", "calls": [], "end": None}
    with httpx.stream("POST", url + CHAT, json={**body, "stream": True}, timeout=120) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line[6:])["choices"]
            found["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", []):
                if "id" in call:
                    found["calls"].append({"name": call["function"]["name"], "arguments": ""})
                else:
                    found["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            found["end"] = choice["finish_reason"] or found["end"]
    return found


def run_all(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sixteen at a time, every second one streamed."""
    with ThreadPoolExecutor(16) as pool:
        return list(
            pool.map(lambda pair: generate(url, pair[1], streamed=pair[0] % 2 == 1), enumerate(bodies))
        )


@pytest.mark.parametrize("form", ["response_format", "guided_json"])
def test_schemas_hold(asked: RunningServer, bias: dict[str, float], form: str) -> None:
    runs = 5 if FULL else 1
    ask = {"temperature": 1, "max_tokens": 600, "logit_bias": bias}
    messages = [{"role": "user", "content": "Answer in JSON. Invent the values."}]
    bodies = []
    for seed in range(runs):
        for schema in SCHEMAS:
            demand: Any = schema
            if form == "response_format":
                demand = {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": schema, "strict": True},
                }
            bodies.append({**ask, "messages": messages, "seed": seed, form: demand})
    outcomes: Counter[str] = Counter()
    for body, answer in zip(bodies, run_all(asked.url, bodies), strict=True):
        schema = body[form] if form == "guided_json" else body[form]["json_schema"]["schema"]
        assert answer["end"] == "stop", answer
        jsonschema.validate(json.loads(answer["content"]), schema)
        outcomes["valid"] += 1
    assert outcomes["valid"] == len(SCHEMAS) * runs


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "locate"}}])
def test_required_calls_hold(asked: RunningServer, bias: dict[str, float], choice: Any) -> None:
    by_name = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
    bodies = [
        {
            "messages": [{"role": "user", "content": "Do something useful."}],
            "tools": TOOLS,
            "tool_choice": choice,
            "temperature": 1,
            "seed": seed,
            "max_tokens": 900,
            "logit_bias": bias,
            # Only the whole model ends with a few calls if it may go on.
            "parallel_tool_calls": seed % 2 == 0 and (FULL or choice != "required"),
        }
        for seed in range(50 if FULL else 4)
    ]
    for body, answer in zip(bodies, run_all(asked.url, bodies), strict=True):
        assert answer["end"] == "tool_calls", answer
        assert not answer["content"]
        assert answer["calls"]
        if not body["parallel_tool_calls"] or choice != "required":
            assert len(answer["calls"]) == 1
        for call in answer["calls"]:
            jsonschema.validate(json.loads(call["arguments"]), by_name[call["name"]])
            assert choice == "required" or call["name"] == "locate"


def test_references_of_tools_schemas(asked: RunningServer, bias: dict[str, float]) -> None:
    """Two tools with the same names in their schemas; a value that looks like a reference is none."""
    schema = closed(
        {"a": {"$ref": "#item"}, "b": {"$ref": "#/properties/a"}, "c": {"enum": [{"$ref": "#/x"}]}},
        **{"$id": "http://a.b/c", "$defs": {"x": {"$anchor": "item", "enum": ["q"]}}},
    )
    function = {"parameters": schema, "strict": True}
    body = {
        "messages": [{"role": "user", "content": "Call one."}],
        "tools": [{"type": "function", "function": {"name": name, **function}} for name in ("one", "two")],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "logit_bias": bias,
    }
    ((call,),) = (answer["calls"] for answer in run_all(asked.url, [body]))
    jsonschema.validate(json.loads(call["arguments"]), schema)
