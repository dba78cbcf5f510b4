"""Adds to the OpenAPI document what FastAPI cannot see: bodies parsed by hand and the error shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.protocol.chat import ChatRequest
from app.protocol.common import ErrorResponse
from app.protocol.completions import CompletionRequest
from app.protocol.responses import ResponsesRequest
from app.protocol.tokens import DetokenizeRequest, TokenizeRequest

_MODELS: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatRequest,
    ResponsesRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ErrorResponse,
)
_METHODS = ("get", "post", "delete")


def install(app: FastAPI) -> None:
    """Replace `app.openapi` by one that knows the request models."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _, extra = models_json_schema(
                [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(extra["$defs"])
            error = {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
            for path in document["paths"].values():
                for method in _METHODS:
                    if method in path:
                        path[method]["responses"].pop("422", None)
                        path[method]["responses"]["default"] = {
                            "description": "Any error",
                            "content": {"application/json": error},
                        }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
