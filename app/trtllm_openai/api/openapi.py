"""Extends the OpenAPI document with manually parsed bodies, event streams and the error schema."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from trtllm_openai.api.errors import ANTHROPIC_PATH
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import ErrorResponse
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.protocol.documented import (
    ChatCompletionChunk,
    ChatMessage,
    CompletionChunk,
    ConversationTurn,
    CustomTool,
    MessageStreamEvent,
    NamedTool,
    ResponseFormat,
    ResponseStreamEvent,
    TextBlock,
    Tool,
)
from trtllm_openai.protocol.messages import AnthropicErrorResponse, CountTokensRequest, MessagesRequest
from trtllm_openai.protocol.responses import CompactRequest, InputTokensRequest, ResponsesRequest
from trtllm_openai.protocol.tokens import DetokenizeRequest, TokenizeRequest

_REQUESTS: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatRequest,
    ResponsesRequest,
    InputTokensRequest,
    CompactRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ErrorResponse,
)
_PARTS: tuple[type[BaseModel], ...] = (
    ChatMessage,
    Tool,
    NamedTool,
    ResponseFormat,
    ChatCompletionChunk,
    CompletionChunk,
    ResponseStreamEvent,
    ConversationTurn,
    CustomTool,
    TextBlock,
    MessageStreamEvent,
    AnthropicErrorResponse,
)
_STREAMS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": CompletionChunk,
    "/v1/responses": ResponseStreamEvent,
    "/v1/messages": MessageStreamEvent,
}
_METHODS = ("get", "post", "delete")
_ERRORS = {
    "400": "The request is invalid; error.param names the parameter.",
    "401": "The API key is missing or invalid.",
    "403": "The API key lacks the required scope.",
    "404": "The route, model or response does not exist.",
    "405": "The route does not support this method.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests are queued; retry after the seconds in retry-after.",
    "500": "The server or the engine failed.",
    "503": "The model is loading or the server is shutting down; see retry-after.",
    "504": "The request timed out.",
}


def install(app: FastAPI) -> None:
    """Replace `app.openapi` with a function that adds the request models."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _complete(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for models, mode in ((_REQUESTS, "validation"), (_PARTS, "serialization")):
        _, found = models_json_schema(
            [(model, mode) for model in models],  # type: ignore[misc]
            ref_template="#/components/schemas/{model}",
        )
        for name, schema in found["$defs"].items():
            schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own error schemas
        schemas.pop(unused, None)
    for path, operations in document["paths"].items():
        anthropic = path.startswith(ANTHROPIC_PATH)
        error = {"$ref": f"#/components/schemas/{'Anthropic' if anthropic else ''}ErrorResponse"}
        content = {"application/json": {"schema": error}}
        for method in _METHODS:
            if method not in operations:
                continue
            responses = operations[method]["responses"]
            responses.pop("422", None)
            for status, description in _ERRORS.items():
                sent = "529" if anthropic and status == "503" else status
                responses.setdefault(sent, {"description": description, "content": content})
        if path in _STREAMS:
            chunk = {"$ref": f"#/components/schemas/{_STREAMS[path].__name__}"}
            ok = operations["post"]["responses"]["200"]
            ok["description"] = "The complete response, or with stream: true its events."
            ok["content"]["text/event-stream"] = {"schema": _event(chunk, error)}


def _event(chunk: dict[str, str], error: dict[str, str]) -> dict[str, Any]:
    """Schema of a server-sent event: its data is a chunk, an error, or `[DONE]`."""
    parsed = {"anyOf": [chunk, error]}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": {
                "type": "string",
                "if": {"const": "[DONE]"},
                "else": {"contentMediaType": "application/json", "contentSchema": parsed},
            },
        },
    }
