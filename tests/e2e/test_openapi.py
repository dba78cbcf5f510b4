"""The OpenAPI document, used: requests made up from it never break the server, and its answers keep to it."""

import json
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.conftest import RunningServer, serve
from trtllm_openai.protocol.common import ResponseModel
from trtllm_openai.protocol.documented import ChatCompletionChunk, CompletionChunk, MessageStreamEvent

CHECKS = [
    not_a_server_error,  # the first: see _try
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def test_no_request_breaks_it() -> None:
    """On an engine that answers at once."""
    flags = ["--synthetic.itl", "0", "--synthetic.ttft", "0", "--synthetic.max-seq-len", "256"]
    with serve("--engine", "synthetic", *flags, "--log-level", "error") as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        found = list(schema.get_all_operations())
        operations = [operation.ok() for operation in found if isinstance(operation, Ok)]
        assert len(operations) == len(found) > 15
        try:
            for operation in operations:
                tried = given(case=operation.as_strategy())(_try)
                settings(
                    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
                )(tried)()
        finally:
            print("".join(server.stderr)[-4000:])  # shown when it fails: the server's own words


def _try(case: "schemathesis.Case[Any]") -> None:
    response = case.call()
    own_fault = response.status_code == 504  # it gave itself a timeout of next to nothing
    case.validate_response(response, checks=CHECKS[own_fault:])
    if response.status_code >= 400:
        answer = json.loads(response.content)
        detail = answer["error"]
        if case.path.startswith("/v1/messages"):
            assert set(detail) == {"message", "type"}
            found = answer["request_id"]
        else:
            assert set(detail) == {"message", "type", "param", "code", "request_id"}
            found = detail["request_id"]
        assert found == response.headers["x-request-id"][0]


def test_chunks_are_as_documented(server: RunningServer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60}
    bodies: list[tuple[str, dict[str, object], type[ResponseModel]]] = [
        ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 1}, ChatCompletionChunk),
        ("/v1/chat/completions", {**chat, "tools": [tool], "tool_choice": "required"}, ChatCompletionChunk),
        ("/v1/completions", {"prompt": "Hi", "logprobs": 1, "echo": True}, CompletionChunk),
        (
            "/v1/chat/completions",
            {**chat, "return_token_ids": True, "prompt_logprobs": 1},
            ChatCompletionChunk,
        ),
        (
            "/v1/completions",
            {"prompt": "Hi", "return_token_ids": True, "prompt_logprobs": 1},
            CompletionChunk,
        ),
        ("/v1/messages", {**chat, "stop_sequences": ["x"]}, MessageStreamEvent),
    ]
    for path, body, model in bodies:
        options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        with httpx.stream("POST", server.url + path, json={**body, **options}, timeout=60) as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
        assert len(lines) > 3
        for line in lines:
            chunk = json.loads(line)
            model.model_validate(chunk)
            assert _keys(chunk) <= _keys(model.model_validate(chunk).model_dump())


def _keys(value: object) -> set[str]:
    """Every key in it, at any depth."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(_keys, value.values()))
