"""The routes of /v1/messages over a fake engine."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.served import Served, keys_file
from trtllm_openai.generation import GenerationRequest, StepOutput
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/messages"
COUNT = f"{PATH}/count_tokens"
HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Seoul"}}\n</tool_call>'


def events_of(text: str) -> list[dict[str, Any]]:
    """The data of a stream's events, each of which is called as its type says."""
    events = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def prompt_of(served: Served, index: int = -1) -> str:
    return served.pool.tokenizer.decode(served.pool.requests[index].prompt_token_ids)


def error(served: Served, body: Any, path: str = PATH, **options: Any) -> tuple[int, str, str]:
    """Status, type and message of a request that is refused in Anthropic's shape."""
    response = served.post(path, body, **options)
    answer = response.json()
    assert set(answer) == {"type", "error", "request_id"}
    assert set(answer["error"]) == {"type", "message"}
    assert answer["type"] == "error"
    assert answer["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return response.status_code, answer["error"]["type"], answer["error"]["message"]


def test_a_message(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    response = served.post(f"{PATH}?beta=true", {**HI, "system": "Be brief."})
    message = response.json()
    assert response.headers["request-id"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["content"] == [{"type": "text", "text": "Hello world"}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    (request,) = served.pool.requests
    usage = message["usage"]
    assert usage["input_tokens"] == len(request.prompt_token_ids)
    assert usage["output_tokens"] == len(demo_tokenizer.encode("Hello world", add_special_tokens=False))
    assert request.sampling.max_tokens == 100
    prompt = prompt_of(served)
    assert prompt.index("Be brief.") < prompt.index("Hi")
    assert served.post(PATH, {**HI, "max_tokens": 1}).json()["stop_reason"] == "max_tokens"


def test_the_first_request_of_claude_code(demo_tokenizer: Tokenizer) -> None:
    """Its shape, as version 2.1.197 sends it; the words are shorter."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "demo",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>\nContext.\n</system-reminder>\n"},
                    {"type": "text", "text": "run it", **cached},
                ],
            },
            {"role": "system", "content": "Available agent types."},
        ],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.9aa;"},
            {"type": "text", "text": "You are an agent.", **cached},
            {"type": "text", "text": "\nYou help users.", **cached},
        ],
        "tools": [WEATHER],
        "metadata": {"user_id": "{}"},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    }
    served = Served(demo_tokenizer, CALL)
    response = served.post(f"{PATH}?beta=true", body, headers={"anthropic-version": "2023-06-01"})
    assert response.status_code == 200
    assert "x-ignored-params" not in response.headers
    assert events_of(response.text)[-2]["delta"]["stop_reason"] == "tool_use"
    prompt = prompt_of(served)
    said = ("You are an agent.", "You help users.", "Context.", "run it", "Available agent types.")
    places = [prompt.index(text) for text in said]
    assert places == sorted(places)
    assert "billing" not in prompt


def test_a_stop_sequence(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, "Hello STOP world")
    message = served.post(PATH, {**HI, "stop_sequences": ["no", "STOP"]}).json()
    assert message["content"] == [{"type": "text", "text": "Hello "}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")


def test_stream_and_whole_tell_the_same(demo_tokenizer: Tokenizer) -> None:
    text = f"<think>\nWhere?\n</think>\n\nI look.\n{CALL}"
    served = Served(demo_tokenizer, text, reasoning_parser="think")
    body = {**HI, "tools": [WEATHER]}
    whole = served.post(PATH, body).json()
    kinds = [block["type"] for block in whole["content"]]
    assert kinds == ["thinking", "text", "tool_use"]
    assert whole["content"][0]["thinking"] == "Where?"
    assert whole["content"][2]["input"] == {"city": "Seoul"}
    assert whole["stop_reason"] == "tool_use"
    response = served.post(PATH, {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [event["type"] for event in events[:3]] == ["message_start", "content_block_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    told: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            told[event["index"]] = told.get(event["index"], "") + piece
    assert told[0] == "Where?"
    assert told[1] == whole["content"][1]["text"]
    assert json.loads(told[2]) == whole["content"][2]["input"]
    assert events[-2]["usage"] == whole["usage"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_an_answer_to_the_call(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    call = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Seoul"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Sunny."}]}
    turns = [
        *HI["messages"],  # type: ignore[misc]
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    assert served.post(PATH, {**HI, "messages": turns, "tools": [WEATHER]}).status_code == 200
    prompt = prompt_of(served)
    places = [prompt.index(text) for text in ("Hi", "I look.", '"Seoul"', "Sunny.", "And?")]
    assert places == sorted(places)


def test_what_is_left_out_is_named(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    body = {**HI, "tools": [search, WEATHER], "container": "c"}
    for path in (PATH, COUNT):
        response = served.post(path, body)
        assert response.status_code == 200
        assert "container" in response.headers["x-ignored-params"]
        assert "tools[0]:web_search_20250305" in response.headers["x-ignored-params"]


def test_count_tokens(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    body = {"system": "Be brief.", "messages": HI["messages"], "tools": [WEATHER]}
    count = served.post(COUNT, body).json()
    assert served.pool.requests == []
    usage = served.post(PATH, {**body, "max_tokens": 5}).json()["usage"]
    assert count == {"input_tokens": usage["input_tokens"]}


def test_the_billing_header_does_not_change_the_prompt(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    for version in ("2.1.197.1c0", "2.1.197.2d1"):
        header = f"x-anthropic-billing-header: cc_version={version}; cc_entrypoint=cli;"
        system = [{"type": "text", "text": header}, {"type": "text", "text": "Be brief."}]
        assert served.post(PATH, {**HI, "system": system}).status_code == 200
        chat = [{"role": "system", "content": f"{header}\nBe brief."}, {"role": "user", "content": "Hi"}]
        assert served.post("/v1/chat/completions", {"messages": chat}).status_code == 200
    assert len({tuple(request.prompt_token_ids) for request in served.pool.requests}) == 1
    assert "billing" not in prompt_of(served)


def test_cached_tokens_are_counted_apart(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    outputs = served.pool.outputs

    def with_a_hit(request: GenerationRequest) -> list[StepOutput]:
        found = outputs(request)
        found[0].cached_tokens = 4
        return found

    served.pool.outputs = with_a_hit  # type: ignore[method-assign]
    usage = served.post(PATH, HI).json()["usage"]
    prompt = len(served.pool.requests[0].prompt_token_ids)
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (prompt - 4, 4)
    start = events_of(served.post(PATH, {**HI, "stream": True}).text)[0]["message"]["usage"]
    assert (start["input_tokens"], start["cache_read_input_tokens"]) == (prompt - 4, 4)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "'messages'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"max_tokens": None}, "'max_tokens'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'messages[0].content[0]'"),
        ({"stop_sequences": [""]}, "'stop_sequences'"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "'tools[0].name'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "'x'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"temperature": 9}, "'temperature'"),
        ({"min_p": 0.5}, "min_p"),
        ({"output_config": {"format": {"type": "json_schema", "schema": 5}}}, "output_config.format"),
        ({"messages": [{"role": "user", "content": " word" * 600}]}, "512 tokens, but the prompt has 6"),
        ({"chat_template_kwargs": {"messages": 1}}, "'chat_template_kwargs.messages'"),
    ],
)
def test_refusals(demo_tokenizer: Tokenizer, fields: dict[str, Any], named: str) -> None:
    served = Served(demo_tokenizer)
    status, kind, message = error(served, {**HI, **fields})
    assert (status, kind) == (400, "invalid_request_error")
    assert named in message
    assert served.pool.requests == []


def test_errors_of_every_layer_have_anthropics_shape(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="requests_per_minute=3")
    served = Served(demo_tokenizer, api_keys_file=file, max_body_bytes=10_000)
    key = {"x-api-key": headers["alice"]["authorization"].removeprefix("Bearer ")}
    assert error(served, HI)[:2] == (401, "authentication_error")
    assert served.post(PATH, HI, headers=key).status_code == 200
    large = {**HI, "system": "x" * 20_000}
    assert error(served, large, headers=key)[:2] == (413, "request_too_large")
    assert error(served, {**HI, "model": "claude"}, headers=key)[:2] == (404, "not_found_error")
    assert error(served, HI, headers=key)[:2] == (429, "rate_limit_error")
    assert error(served, HI, f"{PATH}/nothing", headers=key)[:2] == (404, "not_found_error")
    served.context.draining = True
    assert error(served, HI, headers=key)[:2] == (529, "overloaded_error")
    other = served.post("/v1/chat/completions", HI, headers=key)
    assert (other.status_code, set(other.json())) == (503, {"error"})


def test_without_an_engine(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.info = None
    for path in (PATH, COUNT):
        response = served.post(path, HI)
        assert (response.status_code, response.headers["retry-after"]) == (529, "5")
        assert response.json()["error"]["type"] == "overloaded_error"


def test_an_engine_that_fails(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)

    def broken(request: GenerationRequest) -> list[StepOutput]:
        text = StepOutput(request.request_id, demo_tokenizer.encode("Hello", add_special_tokens=False))
        return [text, StepOutput(request.request_id, [], finish_reason="error", error="broken")]

    served.pool.outputs = broken  # type: ignore[method-assign]
    assert error(served, HI)[:2] == (500, "api_error")
    events = events_of(served.post(PATH, {**HI, "stream": True}).text)
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"


def test_a_silent_stream_has_pings(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, ping_interval=1)
    served.pool.hold = True

    async def first_bytes() -> bytes:
        sent: list[bytes] = []
        came = asyncio.Event()
        body = json.dumps({**HI, "stream": True}).encode()
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await came.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent.append(message["body"])
                came.set()

        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "root_path": ""}
        await served.app({**scope, "headers": []}, receive, send)
        return b"".join(sent)

    assert asyncio.run(first_bytes()).startswith(b'event: ping\ndata: {"type":"ping"}\n\n')
    assert served.pool.aborted


def test_a_key_has_its_own_prefixes(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="", bob="")
    served = Served(demo_tokenizer, api_keys_file=file)
    served.pool.info = served.pool.with_salts()
    for name in ("alice", "bob", "alice"):
        assert served.post(PATH, HI, headers=headers[name]).status_code == 200
    first, second, third = (request.cache_salt for request in served.pool.requests)
    assert first == third != second
