"""The request layer around a tiny application."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trtllm_openai.api.auth import Keys, make_key
from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.middleware import RequestLayer, clean_path
from trtllm_openai.config import LimitSettings, Settings
from trtllm_openai.runners import Admission, SharedCounters
from trtllm_openai.telemetry.failures import Failures
from trtllm_openai.telemetry.metrics import Metrics, render


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"),
        ("//", "/"),
        ("//v1/models", "/v1/models"),
        ("/v1///x//", "/v1/x"),
        ("/v1/models/a%2Fb", "/v1/models/a%2Fb"),
    ],
)
def test_clean_path(path: str, clean: str) -> None:
    assert clean_path(path) == clean


def call(
    headers: dict[str, str],
    chunks: list[bytes],
    limit: int = 10,
    keys: Keys | None = None,
    draining: bool = False,
) -> tuple[list[dict[str, Any]], Metrics]:
    metrics = Metrics()
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "//x/", "headers": raw}
    service: Any = SimpleNamespace(
        settings=Settings(max_body_bytes=limit),
        metrics=metrics,
        draining=draining,
        tracer=None,
        failures=Failures("http"),
        admission=Admission(LimitSettings(), lambda _: None, SharedCounters.alone()),
    )
    asyncio.run(RequestLayer(app, service, keys)(scope, receive, send))
    assert scope["path"] == "/x"
    return sent, metrics


@pytest.mark.parametrize(
    ("headers", "chunks", "status"),
    [
        ({}, [b"x" * 10], 200),
        ({}, [b"x" * 6, b"x" * 5], 413),
        ({"content-length": "11"}, [], 413),
        ({"content-length": "rubbish"}, [b"x"], 200),
    ],
)
def test_body_limit(headers: dict[str, str], chunks: list[bytes], status: int) -> None:
    sent, metrics = call(headers, chunks)
    assert sent[0]["status"] == status
    assert f'status="{status}"}} 1.0' in render(metrics.snapshot()).decode()


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1", True), ("a b", False), ("", False), ("x" * 129, False)]
)
def test_request_id(given: str, kept: bool) -> None:
    sent, _ = call({"x-request-id": given}, [])
    answered = dict(sent[0]["headers"])[b"x-request-id"].decode()
    assert (answered == given) is kept
    assert answered


def test_a_key_is_asked_for_before_anything_else(tmp_path: Path) -> None:
    key, line = make_key("alice", "api")
    file = tmp_path / "keys"
    file.write_text(line)
    refused, _ = call({}, [b"x" * 100], keys=Keys(file))
    assert refused[0]["status"] == 401
    assert dict(refused[0]["headers"])[b"www-authenticate"] == b"Bearer"
    assert call({"authorization": f"Bearer {key}"}, [], keys=Keys(file))[0][0]["status"] == 200


def test_nothing_new_is_begun_while_draining() -> None:
    sent, _ = call({}, [], draining=True)
    assert sent[0]["status"] == 503
    assert int(dict(sent[0]["headers"])[b"retry-after"]) > 0
    assert json.loads(sent[1]["body"])["error"]["code"] == "service_unavailable"
