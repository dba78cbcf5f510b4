"""A small client of any OpenAI-compatible server: its models, and streamed chat. One request at a time.

Only the standard library: the package does not depend on an HTTP client.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trtllm_openai.bench.plan import parse_target
from trtllm_openai.errors import InvalidRequest

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 600.0
NOBODY_THERE = " `trtllm-openai serve` starts one; --url names another."


class Client:
    """Talks to the server at `url`, with or without /v1. Its methods raise `InvalidRequest` in a sentence."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """`api_key` is sent as a bearer token. Raises `ConfigError` for a URL that is none."""
        self.url = url.rstrip("/")
        self._target = parse_target(url, api_key)

    def models(self) -> list[dict[str, Any]]:
        """The models that the server lists, the first of which is its own choice."""
        with self._answer("GET", "/models", None) as answer:
            listed = json.loads(answer.read()).get("data", [])
        if not listed:
            raise InvalidRequest(f"The server at {self.url} lists no model.")
        return [dict(one) for one in listed]

    def chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed chat completion, as they come. Closing it ends the request."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._answer("POST", "/chat/completions", asked) as answer:
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                chunk = json.loads(data)
                if error := chunk.get("error"):
                    raise InvalidRequest(f"The server ended the answer: {_message(error)}")
                yield chunk

    @contextmanager
    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        target = self._target
        kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
        connection = kind(target.host, target.port, timeout=CONNECT_TIMEOUT_S)
        headers = {"content-type": "application/json"}
        if target.api_key:
            headers["authorization"] = f"Bearer {target.api_key}"
        try:
            connection.connect()
            if isinstance(connection.sock, socket.socket):
                connection.sock.settimeout(ANSWER_TIMEOUT_S)
            text = None if body is None else json.dumps(body)
            connection.request(method, target.prefix + path, text, headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise InvalidRequest(self._refusal(answer))
            yield answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, InvalidRequest):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            hint = NOBODY_THERE if isinstance(error, ConnectionRefusedError) else ""
            raise InvalidRequest(f"The server at {self.url} cannot be asked: {reason}.{hint}") from None
        finally:
            connection.close()

    def _refusal(self, answer: http.client.HTTPResponse) -> str:
        text = answer.read().decode(errors="replace")
        try:
            said = _message(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            said = text[:200].strip()
        if answer.status == http.client.UNAUTHORIZED:
            said += " Give it with --api-key or TRTLLM_OPENAI_API_KEY."
        return f"The server answered {answer.status}: {said}"


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
