"""/v1/responses through the official SDK, and raw where the SDK would hide something."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import RunningServer

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["unit"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def model(client: OpenAI) -> str:
    return client.models.list().data[0].id


def test_a_conversation_is_kept(client: OpenAI, model: str) -> None:
    first = client.responses.create(
        model=model, input="My name is Yuna.", instructions="Be brief.", temperature=0, max_output_tokens=40
    )
    assert first.status in ("completed", "incomplete")
    assert first.output_text
    assert first.usage is not None
    second = client.responses.create(
        model=model,
        input="What is my name?",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=20,
    )
    alone = client.responses.create(
        model=model, input="What is my name?", temperature=0, max_output_tokens=20
    )
    assert second.usage is not None
    assert alone.usage is not None
    # The conversation came along, the instructions did not.
    kept = second.usage.input_tokens - alone.usage.input_tokens
    assert kept > first.usage.output_tokens
    again = client.responses.retrieve(second.id)
    assert again.output_text == second.output_text
    assert client.responses.input_items.list(second.id).data[0].to_dict()["role"] == "user"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=model, input="x", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"


def test_streamed_text_equals_unstreamed_text(client: OpenAI, model: str) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "input": "Name a color.",
        "temperature": 0,
        "max_output_tokens": 30,
    }
    whole = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == f"response.{whole.status}"
    assert kinds[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage == whole.usage


def test_tools(client: OpenAI, model: str, terse: dict[str, float]) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "input": "Weather in Seoul?",
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_output_tokens": 200,
        "parallel_tool_calls": False,
    }
    more = {"seed": 5, "logit_bias": terse}
    whole = client.post("/responses", body=ask | more, cast_to=dict[str, Any])
    call = whole["output"][0]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"])["unit"] in ("celsius", "fahrenheit")
    events = list(client.responses.create(**ask, stream=True, extra_body=more))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(pieces) > 1
    assert "".join(pieces) == call["arguments"]
    answer = client.responses.create(
        model=model,
        input=[{"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 21 degrees."}],
        previous_response_id=whole["id"],
        max_output_tokens=10,
    )
    assert answer.output_text


def test_structured_text(client: OpenAI, model: str, terse: dict[str, float]) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    answer = client.responses.create(
        model=model,
        input="Yes?",
        text={"format": form},
        max_output_tokens=100,
        extra_body={"logit_bias": terse},
    )
    assert isinstance(json.loads(answer.output_text)["ok"], bool)


PATCH: Any = {
    "type": "custom",
    "name": "apply_patch",
    "format": {"type": "grammar", "syntax": "regex", "definition": "[+-][a-c]{3,8}"},
}


def test_custom_and_namespaced_tools(client: OpenAI, model: str, terse: dict[str, float]) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "input": "Write a patch.",
        "tools": [
            {"type": "namespace", "name": "sky", "description": "The sky.", "tools": [WEATHER]},
            PATCH,
            {"type": "web_search"},
        ],
        "max_output_tokens": 200,
        "parallel_tool_calls": False,
        "extra_body": {"logit_bias": terse},
    }
    demanded: Any = {"type": "custom", "name": "apply_patch"}
    in_the_sky: Any = {"type": "function", "name": "get_weather", "namespace": "sky"}
    events = list(client.responses.create(**ask, tool_choice=demanded, stream=True))
    call = events[-1].response.output[0]
    assert call.type == "custom_tool_call"
    assert re.fullmatch(r"[+-][a-c]{3,8}", call.input), "the grammar holds"
    deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == call.input
    told = client.responses.with_raw_response.create(**ask, tool_choice=in_the_sky)
    assert told.headers["x-ignored-params"] == "tools[2] (web_search)"
    function = told.parse().output[0]
    assert function.type == "function_call"
    assert (function.namespace, function.name) == ("sky", "get_weather")
    answer = client.responses.create(
        model=model,
        tools=ask["tools"],
        input=[
            {"type": "item_reference", "id": function.id or ""},
            {"type": "function_call_output", "call_id": function.call_id, "output": "Rain."},
        ],
        max_output_tokens=5,
    )
    assert answer.usage is not None
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=model, input=[{"type": "item_reference", "id": "fc_x"}])
    assert caught.value.param == "input[0].id"


def test_input_tokens_are_counted(client: OpenAI, model: str) -> None:
    talk: list[Any] = [
        {"role": "user", "content": "My name is Yuna."},
        {"role": "assistant", "content": "Hello, Yuna."},
    ]
    counted = client.responses.input_tokens.count(model=model, input=talk)
    used = client.responses.create(model=model, input=talk, max_output_tokens=1).usage
    assert used is not None
    assert counted.input_tokens == used.input_tokens


def test_a_stream_without_text_is_whole(client: OpenAI, model: str) -> None:
    """The end token comes first: the SDK's accumulator needs the item that it never had text for."""
    with client.responses.stream(
        model=model, input="Hi", temperature=0, extra_body={"logit_bias": {"2": 100}}
    ) as stream:
        response = stream.get_final_response()
    assert (response.status, response.output_text) == ("completed", "")
    assert response.output[0].type == "message"


def test_background_and_cancel(client: OpenAI, server: RunningServer, model: str) -> None:
    quick = client.responses.create(model=model, input="Hi", background=True, max_output_tokens=5)
    assert quick.status == "in_progress"
    server.wait(lambda: client.responses.retrieve(quick.id).status != "in_progress", patience=30)
    assert client.responses.retrieve(quick.id).output_text
    long = client.post(
        "/responses",
        body={"input": "Count.", "background": True, "max_output_tokens": 1500, "temperature": 2},
        cast_to=dict[str, Any],
    )
    time.sleep(0.2)
    assert client.responses.cancel(long["id"]).status == "cancelled"
    server.wait(lambda: server.metric("requests_running") == 0, patience=5)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=model, input="x", previous_response_id=long["id"])
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(client.responses.create(model=model, input="x", max_output_tokens=1).id)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "", "content": "x"}], "instructions": "y"}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": 5}]}, "input[0].id"),
        ({"input": [{"type": "diary"}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": "x", "tools": [{"type": "teleport"}]}, "tools[0].type"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": "word " * 3000}, "input"),
        ({"input": "x", "background": True, "stream": True}, "background"),
        ({"input": "x", "truncation": "some"}, "truncation"),
        ({"input": "x", "reasoning": {"effort": 1}}, "reasoning.effort"),
    ],
)
def test_faults_are_named(server: RunningServer, body: dict[str, object], param: str) -> None:
    response = httpx.post(f"{server.url}/v1/responses", json=body, timeout=60)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_deadline_ends_the_stream_with_an_error_event(server: RunningServer) -> None:
    body = {"input": "Count.", "stream": True, "timeout": 1, "max_output_tokens": 1900, "temperature": 2}
    with httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=60) as response:
        lines = list(response.iter_lines())
    last = json.loads(next(line for line in reversed(lines) if line.startswith("data: "))[6:])
    assert last["type"] == "error"
    assert last["error"]["code"] == "timeout"
    server.wait(lambda: server.metric("requests_running") == 0, patience=5)


def test_tokenize_detokenize_and_render(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": "대한민국의 수도는", "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert http.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {
        "prompt": "대한민국의 수도는"
    }
    messages = [{"role": "user", "content": "Hi"}]
    rendered = http.post("/v1/chat/completions/render", json={"messages": messages}).json()
    assert rendered["prompt"].endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    same = http.post("/tokenize", json={"messages": messages}).json()
    assert same["tokens"] == rendered["token_ids"]
    used = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()["usage"]
    assert used["prompt_tokens"] == rendered["count"]
    for path, body, param in (
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": messages}, "prompt"),
        ("/detokenize", {"tokens": [10**8]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ):
        response = http.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
