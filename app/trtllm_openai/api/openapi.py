"""Adds to the OpenAPI document what FastAPI cannot see: bodies parsed by hand, streams, the error shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import ErrorResponse
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.protocol.documented import (
    ChatCompletionChunk,
    ChatMessage,
    CompletionChunk,
    NamedTool,
    ResponseFormat,
    ResponseStreamEvent,
    Tool,
)
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.protocol.tokens import DetokenizeRequest, TokenizeRequest

_REQUESTS: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatRequest,
    ResponsesRequest,
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
)
_STREAMS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": CompletionChunk,
    "/v1/responses": ResponseStreamEvent,
}
_METHODS = ("get", "post", "delete")
_ERRORS = {
    "400": "The request is at fault; error.param names the parameter.",
    "401": "There is no API key with the request, or none that is known.",
    "403": "The API key is not for this.",
    "404": "There is no such route, model or response.",
    "405": "The route does not take this method.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too much is waiting; try again after the seconds in retry-after.",
    "500": "The server or the engine failed.",
    "503": "The model is loading, or the server is ending; see retry-after.",
    "504": "The request's time ran out.",
}


def install(app: FastAPI) -> None:
    """Replace `app.openapi` by one that knows the request models."""

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
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape of errors
        schemas.pop(unused, None)
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method not in operations:
                continue
            responses = operations[method]["responses"]
            responses.pop("422", None)
            for status, description in _ERRORS.items():
                responses.setdefault(status, {"description": description, "content": content})
        if path in _STREAMS:
            chunk = {"$ref": f"#/components/schemas/{_STREAMS[path].__name__}"}
            ok = operations["post"]["responses"]["200"]
            ok["description"] = "The whole answer, or with stream: true its events."
            ok["content"]["text/event-stream"] = {"schema": _event(chunk)}


def _event(chunk: dict[str, str]) -> dict[str, Any]:
    """The schema of a Server-Sent Event: its data is a chunk, an error, or the word that ends the stream."""
    parsed = {"anyOf": [chunk, {"$ref": "#/components/schemas/ErrorResponse"}]}
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
