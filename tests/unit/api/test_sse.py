"""Frames are valid JSON whatever the text, and a stream's on_close always runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.sse import DONE, ChunkFrames, TokenStream, event

HEAD = {"id": 'a"b', "object": "o", "created": 1, "model": "m/\\é"}
CHAT = ('"delta":{"content":', "}")
TEXT = ('"text":', "")


def parsed(frame: bytes) -> dict[str, Any]:
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    assert b"\n" not in frame[:-2]
    return json.loads(frame[6:])  # type: ignore[no-any-return]


@given(st.text(), st.integers(0, 2), st.booleans(), st.sampled_from([CHAT, TEXT]))
def test_text_frames(text: str, index: int, include_usage: bool, form: tuple[str, str]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates cannot come out of a detokeniser
        return
    chunk = parsed(ChunkFrames(HEAD, *form, 3, include_usage=include_usage).text(index, text))
    choice = {"index": index, "logprobs": None, "finish_reason": None}
    choice |= {"delta": {"content": text}} if form is CHAT else {"text": text}
    assert chunk == {**HEAD, "choices": [choice], **({"usage": None} if include_usage else {})}


def test_usage_frame_has_no_choices() -> None:
    frames = ChunkFrames(HEAD, *CHAT, 1, include_usage=True)
    assert parsed(frames.usage({"total_tokens": 3})) == {**HEAD, "choices": [], "usage": {"total_tokens": 3}}
    assert parsed(event({"a": "한"})) == {"a": "한"}


def run_stream(disconnect: bool, started: list[bool]) -> tuple[int, bool, bytes]:
    closed = 0
    sent = b""

    async def body() -> AsyncIterator[bytes]:
        started.append(True)
        yield b"data: 1\n\n"
        if disconnect:
            await asyncio.sleep(30)
        yield DONE

    def on_close() -> None:
        nonlocal closed
        closed += 1

    async def receive() -> Any:
        if not disconnect:
            await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        sent += message.get("body", b"")

    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}
    asyncio.run(TokenStream(body(), on_close, ping=15)(scope, receive, send))
    return closed, scope["state"]["complete"], sent


def test_whole_stream_is_complete() -> None:
    assert run_stream(False, []) == (1, True, b"data: 1\n\n" + DONE)


def test_client_gone_closes_and_is_not_complete() -> None:
    closed, complete, sent = run_stream(True, [])
    assert (closed, complete) == (1, False)
    assert DONE not in sent


def test_never_started_body_is_closed() -> None:
    closed = []

    async def body() -> AsyncIterator[bytes]:
        yield b""

    async def send(_: Any) -> None:
        raise ConnectionResetError

    async def receive() -> Any:
        await asyncio.sleep(30)

    stream = TokenStream(body(), lambda: closed.append(True), ping=15)
    with pytest.raises(ConnectionResetError):
        asyncio.run(stream({"type": "http", "method": "POST", "headers": []}, receive, send))
    assert closed == [True]
