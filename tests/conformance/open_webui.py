"""Open WebUI in front of the server: it lists the model and chats, over HTTP and in a browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.conformance import install
from tests.conformance.page import Row
from tests.web.browser import chromium_path, launched

if TYPE_CHECKING:
    from tests.conformance.clients import Servers

START_PATIENCE_S = 300
"""It imports 7 GB of packages."""
PICKED = {"color": "red"}
BEGUN, SAID = "I pick.", "It is red."
ASKED = [{"role": "user", "content": "Pick one."}]
SCHEMA = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
TOOLS = [{"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}]


def run(servers: Servers) -> list[Row]:
    """A row for each thing that its page does."""
    with _started(servers) as client:
        checks: list[tuple[str, Callable[[], None]]] = [
            ("the connection is verified", lambda: _verify(client, servers)),
            ("the model is listed", lambda: _models(client, servers.model)),
            ("chat, with a tool's call", lambda: _call(client, servers.model)),
            ("chat, streamed", lambda: _stream(client, servers.model)),
            ("responses", lambda: _responses(client, servers.model)),
            ("an error is passed on", lambda: _error(client, servers.model)),
        ]
        if chromium_path() is not None and find_spec("playwright") is not None:
            checks.append(
                ("in a browser, the model is chosen and chats", lambda: _browse(client, servers.model))
            )
        return [_row(name, check) for name, check in checks]


def _row(name: str, check: Callable[[], None]) -> Row:
    try:
        check()
    except Exception as error:  # those of the browser too
        return name, False, f"{type(error).__name__}: {error}"
    return name, True, ""


def _verify(client: httpx.Client, servers: Servers) -> None:
    body = {"url": servers.scripted, "key": "none"}
    assert (
        client.post("/openai/verify", json=body).raise_for_status().json()["data"][0]["id"] == servers.model
    )


def _models(client: httpx.Client, model: str) -> None:
    listed = client.get("/api/models").raise_for_status().json()["data"]
    assert model in [one["id"] for one in listed]


def _chat(client: httpx.Client, model: str, **more: Any) -> httpx.Response:
    return client.post("/api/chat/completions", json={"model": model, "messages": ASKED, **more})


def _call(client: httpx.Client, model: str) -> None:
    (choice,) = _chat(client, model, tools=TOOLS).raise_for_status().json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == PICKED


def _stream(client: httpx.Client, model: str) -> None:
    lines = _chat(client, model, stream=True).raise_for_status().text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    deltas = [json.loads(one)["choices"][0]["delta"] for one in data[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == SAID


def _responses(client: httpx.Client, model: str) -> None:
    for _ in range(2):
        answer = client.post("/openai/responses", json={"model": model, "input": ASKED, "tools": []})
        (item,) = answer.raise_for_status().json()["output"]
        assert item["status"] == "completed"
    assert item["content"][0]["text"] == SAID


def _error(client: httpx.Client, model: str) -> None:
    refused = _chat(client, model, temperature=9)
    assert refused.status_code == 400
    assert "temperature" in refused.text


def _browse(client: httpx.Client, model: str) -> None:
    """The page of an administrator: it has chosen the only model, and shows the answer to a message."""
    url, token = str(client.base_url).rstrip("/"), client.headers["authorization"].removeprefix("Bearer ")
    with launched() as browser:
        page = browser.new_context(locale="en-GB").new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{url}/auth")
        page.evaluate("token => localStorage.setItem('token', token)", token)
        page.goto(url)
        page.wait_for_selector("#chat-input")
        button = "#model-selector-model-button"
        page.wait_for_function(
            "([at, model]) => document.querySelector(at)?.innerText.includes(model)", arg=[button, model]
        )
        page.get_by_role("button", name="Okay, Let's Go!").click()  # what is new
        page.click("#chat-input")
        page.keyboard.type(ASKED[0]["content"])
        page.keyboard.press("Enter")
        # The engine says a call and an answer in turn, whoever asks; without tools the call is text.
        page.wait_for_function(
            "texts => texts.some(one => document.body.innerText.includes(one))", arg=[BEGUN, SAID]
        )


@contextmanager
def _started(servers: Servers) -> Iterator[httpx.Client]:
    """Open WebUI on a free port, with data of its own, and a client who is its administrator."""
    place = servers.directory / "open_webui"
    place.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from open_webui import app; app()"
    command = [
        str(install.python("open_webui")),
        "-c",
        code,
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = place / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=place, env=_environment(servers, place), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _wait(client, process, log)
                account = {"name": "admin", "email": "admin@example.org", "password": "conformance-1"}
                token = client.post("/api/v1/auths/signup", json=account).raise_for_status().json()["token"]
                client.headers["authorization"] = f"Bearer {token}"
                yield client
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready in time: {log.read_text()[-2000:]}")


def _environment(servers: Servers, place: Path) -> dict[str, str]:
    """Only this server to ask, and nobody to report to."""
    off = (
        "ENABLE_OLLAMA_API",
        "ENABLE_TITLE_GENERATION",
        "ENABLE_TAGS_GENERATION",
        "ENABLE_FOLLOW_UP_GENERATION",
        "ENABLE_VERSION_UPDATE_CHECK",
    )
    on = ("OFFLINE_MODE", "HF_HUB_OFFLINE", "DO_NOT_TRACK", "SCARF_NO_ANALYTICS")
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(place),
        "DATA_DIR": str(place),
        "OPENAI_API_BASE_URL": servers.scripted,
        "OPENAI_API_KEY": "none",
        "RAG_EMBEDDING_ENGINE": "openai",
        "ANONYMIZED_TELEMETRY": "false",
        "WEBUI_SECRET_KEY": "conformance",
        **dict.fromkeys(off, "false"),
        **dict.fromkeys(on, "true"),
    }
