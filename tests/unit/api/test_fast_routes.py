"""Routes that are called directly answer as FastAPI's way to them would."""

import asyncio
import json
from typing import Any

import pytest

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.fast_routes import DirectRoute, DirectRoutes
from trtllm_openai.config import Settings
from trtllm_openai.errors import ClientDisconnected, InvalidRequest
from trtllm_openai.serve.application import DIRECT, create_app
from trtllm_openai.serve.state import InferenceService


def call(error: Exception, method: str = "POST", path: str = "/here") -> tuple[list[Any], dict[str, Any]]:
    """What an endpoint that raises `error` comes to; the application behind it answers with 200."""
    sent: list[Any] = []
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": []}

    async def endpoint(_: Any) -> Any:
        raise error

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(DirectRoutes(app, [DirectRoute("/here", endpoint)])(scope, receive, send))
    return sent, scope


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ApiError(404, "no"), 404),
        (InvalidRequest("no"), 400),
        (ClientDisconnected(), 499),
        (RuntimeError("unexpected"), 500),
    ],
)
def test_errors_have_their_shape(error: Exception, status: int) -> None:
    sent, scope = call(error)
    assert sent[0]["status"] == status
    assert scope["route"].path == "/here"
    if status != 499:
        assert set(json.loads(sent[1]["body"])["error"]) == {"message", "type", "param", "code", "request_id"}


def test_head_is_get() -> None:
    service = InferenceService(Settings(engine="synthetic"))
    app = create_app(service)
    statuses = {}
    for path in (
        "/",
        "/health/live",
        "/v1/models",
        "/metrics",
        "/openapi.json",
        "/v1/completions",
        "/nowhere",
    ):
        sent: list[Any] = []
        scope: dict[str, Any] = {"type": "http", "method": "HEAD", "path": path, "headers": []}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError

        asyncio.run(app({**scope, "query_string": b"", "root_path": ""}, receive, send))
        statuses[path] = sent[0]["status"]
        assert "content-length" in {name.decode() for name, _ in sent[0]["headers"]}
    assert list(statuses.values()) == [200, 200, 200, 200, 200, 405, 404]


@pytest.mark.parametrize(("method", "path"), [("GET", "/here"), ("POST", "/there")])
def test_what_is_not_direct_is_left_to_the_application(method: str, path: str) -> None:
    sent, scope = call(RuntimeError(), method, path)
    assert sent[0]["status"] == 200
    assert "route" not in scope


def test_direct_routes_are_those_of_the_document() -> None:
    paths = create_app(InferenceService(Settings(engine="synthetic"))).openapi()["paths"]
    for route in DIRECT:
        assert paths[route.path]["post"]["operationId"].startswith(route.endpoint.__name__)
