"""Requests of /v1/responses as the chat requests that ask the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.api.responses.request import to_chat
from trtllm_openai.api.responses.tools import read_tools
from trtllm_openai.generation.parameters import PARAMETERS
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.responses import CompactRequest, ResponsesRequest
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/responses"
COUNT = "/v1/responses/input_tokens"
USER = {"role": "user", "content": "Hi"}
OUTPUT = {"type": "function_call_output", "call_id": "1"}
CODEX = json.loads((Path(__file__).parent / "codex_0_171.json").read_text())
"""The first request of codex 0.171, without its words."""


def test_the_chat_request_that_asks_the_same() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    body = ResponsesRequest(
        input="Hi",
        temperature=0.5,
        max_output_tokens=7,
        tools=[tool],
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        reasoning={"effort": "low"},
        truncation="auto",
        include=["message.output_text.logprobs"],
    )
    chat = to_chat(body, [USER], read_tools(body.tools))
    assert chat == {
        "messages": [USER],
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}},
        },
        "reasoning_effort": "low",
        "truncate_prompt_tokens": -1,
        "logprobs": True,
        "top_logprobs": 0,
    }
    ChatRequest.model_validate(chat)


def test_fields_that_a_chat_has_too() -> None:
    given: dict[str, Any] = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "stop_token_ids": [7],
        "ignore_eos": True,
        "logit_bias": {"5": 1},
        "cache_salt": "s",
        "priority": 0.7,
        "min_tokens": 1,
        "allowed_token_ids": [5],
        "bad_words": ["x"],
        "seed": 3,
        "temperature": 0.1,
        "top_p": 0.5,
        "stop": ["x"],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "structured_outputs": {"regex": "a"},
        "chat_template_kwargs": {"a": 1},
    }
    assert {row.name for row in PARAMETERS} - {"max_tokens"} <= set(given)
    body = ResponsesRequest.model_validate({"input": "Hi", **given})
    assert not body.model_extra
    assert to_chat(body, [USER], read_tools(None)) == {"messages": [USER], **given}


def test_a_task_of_the_server_is_plain_text() -> None:
    body = ResponsesRequest(
        input="Hi", tools=[{"type": "function", "name": "f"}], text={"format": {"type": "json_object"}}
    )
    plain = {"messages": [USER], "reasoning_effort": "none"}
    assert to_chat(body, [USER], read_tools(body.tools), "Summarize.") == plain
    assert to_chat(CompactRequest(timeout=3.0), [USER], read_tools(None)) == {**plain, "timeout": 3.0}


def test_the_first_request_of_codex(demo_tokenizer: Tokenizer) -> None:
    """Recorded from codex 0.171: seven functions, a namespace, a tool that OpenAI runs."""
    served = Served(demo_tokenizer)
    response = served.post(PATH, {**CODEX, "stream": False, "truncation": "auto"})
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-params"] == "tools[8] (web_search)"
    counted = served.post(COUNT, {key: CODEX[key] for key in ("input", "tools", "tool_choice")})
    assert counted.json()["input_tokens"] > 1000
    told = served.post(
        "/v1/chat/completions/render", {"messages": [USER], "tools": read_tools(CODEX["tools"]).chat}
    )
    assert all(name in told.json()["prompt"] for name in ("exec_command", "multi_agent_v1__spawn_agent"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "stream": True}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"truncation": "middle"}, "truncation"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"text": {"format": 5}}, "text.format"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "thing"}}}},
            "text.format.schema.type",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "reasoning"}, {"role": "user"}]}, "input[1].content"),
        ({"instructions": "a", "input": [{"role": "", "content": "a"}]}, "input[0].role"),
        (
            {"input": [{**OUTPUT, "output": [{"type": "input_image"}]}]},
            "input[0].output[0].type",
        ),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "a b"}]}]},
            "tools[0].tools[0].name",
        ),
        ({"tools": [{"type": "function", "name": "f", "parameters": 5}]}, "tools[0].parameters"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "word " * 600}, "input"),
        ({"structured_outputs": {"xml": 1}}, "structured_outputs.xml"),
    ],
)
def test_refusals_name_the_parameter_in_the_message_too(
    demo_tokenizer: Tokenizer, fields: dict[str, Any], param: str
) -> None:
    served = Served(demo_tokenizer)
    response = served.post(PATH, {"input": "Hi", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    if param != "input":
        assert param.removesuffix("[0].type") in error["message"]
    assert "response_format" not in error["message"]
    assert served.pool.requests == []


def test_tools_inside_namespaces_count(demo_tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "name": f"f{number}"} for number in range(5)]
    served = Served(demo_tokenizer, limits={"max_tools": 4})
    namespace = {"type": "namespace", "name": "n", "tools": tools}
    assert served.refusal(PATH, {"input": "Hi", "tools": [namespace]})[:2] == (400, "tools")


def test_input_tokens_are_those_of_the_response(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    ask = {"input": "Hi", "instructions": "Be brief.", "tools": [{"type": "function", "name": "f"}]}
    counted = served.post(COUNT, ask).json()
    used = served.post(PATH, ask).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": used["usage"]["input_tokens"]}
    more = served.post(COUNT, {"input": "More.", "previous_response_id": used["id"]}).json()
    assert more["input_tokens"] > served.post(COUNT, {"input": "More."}).json()["input_tokens"]
    assert len(served.pool.requests) == 1
    assert served.refusal(COUNT, {})[:2] == (400, "input")
