"""The OpenAPI document: bodies, streams and errors that FastAPI cannot see."""

import json
import re
from typing import Any

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.state import InferenceService


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(InferenceService(Settings(engine="synthetic"))).openapi()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert {"ChatMessage", "ChatRequest", "ErrorResponse"} <= names
    assert names <= set(document["components"]["schemas"])


def test_generating_routes_document_body_stream_and_errors(document: dict[str, Any]) -> None:
    for path, request, chunk in (
        ("/v1/chat/completions", "ChatRequest", "ChatCompletionChunk"),
        ("/v1/completions", "CompletionRequest", "CompletionChunk"),
        ("/v1/responses", "ResponsesRequest", "ResponseStreamEvent"),
        ("/v1/messages", "MessagesRequest", "MessageStreamEvent"),
    ):
        post = document["paths"][path]["post"]
        assert request in json.dumps(post["requestBody"])
        content = post["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        assert f"schemas/{chunk}" in json.dumps(content["text/event-stream"])
        unavailable = "529" if path == "/v1/messages" else "503"
        assert {"400", "429", unavailable, "504"} <= set(post["responses"])


def test_errors_have_the_one_shape(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        own = "Anthropic" if path.startswith("/v1/messages") else ""
        for operation in operations.values():
            assert "422" not in operation["responses"], "FastAPI's own shape"
            schema = operation["responses"]["400"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{own}ErrorResponse"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
