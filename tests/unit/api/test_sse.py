"""Frames are valid JSON whatever the text, and a stream's on_close always runs."""

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.sse import DONE, PING, ChunkFrames, SseResponse, SseWriter, event

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
    choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": None}
    choice |= {"delta": {"content": text}} if form is CHAT else {"text": text}
    assert chunk == {**HEAD, "choices": [choice], **({"usage": None} if include_usage else {})}


def test_usage_frame_has_no_choices() -> None:
    frames = ChunkFrames(HEAD, *CHAT, 1, include_usage=True)
    assert parsed(frames.usage({"total_tokens": 3})) == {**HEAD, "choices": [], "usage": {"total_tokens": 3}}
    assert parsed(event({"a": "한"})) == {"a": "한"}


class Source:
    """Pushes what it is given, then ends or stays silent; counts what is asked of it."""

    def __init__(self, *frames: bytes, ends: bool = True) -> None:
        self.frames = list(frames)
        self.ends = ends
        self.paused = False
        self.calls: list[str] = []

    @property
    def flow(self) -> "Source":
        return self

    def start(self, writer: SseWriter) -> None:
        self.writer = writer
        self.calls.append("start")
        self.go_on()

    def go_on(self) -> None:
        while self.frames and not self.paused:
            self.writer.push(self.frames.pop(0))
        if self.ends and not self.frames and not self.paused:
            self.writer.finish(DONE)

    def pause(self) -> None:
        self.paused = True
        self.calls.append("pause")

    def resume(self) -> None:
        self.paused = False
        self.calls.append("resume")
        self.go_on()

    def close(self) -> None:
        self.calls.append("close")


class Client:
    """The other end. `slow`: every so many-th send waits; `leaves`: it disconnects at once."""

    def __init__(self, *, slow: int = 0, leaves: bool = False) -> None:
        self.slow = slow
        self.leaves = leaves
        self.sends = 0
        self.received = b""
        self.scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}

    async def send(self, message: Any) -> None:
        self.sends += 1
        if self.slow and self.sends % self.slow == 0:
            await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        self.received += message.get("body", b"")

    async def receive(self) -> Any:
        if not self.leaves:
            await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    def run(self, source: Source, ping: float = 15) -> None:
        async def main() -> None:
            async with asyncio.timeout(5):
                await SseResponse(source, ping)(self.scope, self.receive, self.send)

        asyncio.run(main())

    @property
    def complete(self) -> bool:
        return bool(self.scope["state"]["complete"])


@pytest.mark.parametrize("slow", [0, 1, 2, 3])
def test_whole_stream_in_order_however_slow_the_client(slow: int) -> None:
    client, source = Client(slow=slow), Source(b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")
    client.run(source)
    assert client.received == b"data: 1\n\ndata: 2\n\ndata: 3\n\n" + DONE
    assert client.complete
    assert source.calls.count("close") == 1
    assert source.calls.count("resume") == {0: 0, 1: 3, 2: 2, 3: 1}[slow]


def test_end_that_comes_while_the_client_is_behind_is_sent() -> None:
    client, source = Client(slow=2), Source(b"data: 1\n\n", ends=False)
    source.pause = lambda: source.writer.finish(b"data: late\n\n")  # type: ignore[method-assign]
    client.run(source)
    assert client.received == b"data: 1\n\ndata: late\n\n"
    assert client.complete


@pytest.mark.parametrize("slow", [0, 2])
def test_client_gone_closes_and_is_not_complete(slow: int) -> None:
    client, source = Client(leaves=True, slow=slow), Source(b"data: 1\n\n", ends=False)
    client.run(source)
    assert source.calls[-1] == "close"
    assert source.calls.count("close") == 1
    assert not client.complete


def test_silence_is_filled_with_comments() -> None:
    client, source = Client(), Source(ends=False)

    async def send(message: Any) -> None:
        client.received += message.get("body", b"")
        if client.received.count(PING) == 3 and message.get("more_body"):
            source.writer.finish(DONE)

    client.send = send  # type: ignore[method-assign]
    client.run(source, ping=0.01)
    assert client.received == PING * 3 + DONE


@pytest.mark.parametrize("failing", ["http.response.start", "http.response.body"])
def test_error_of_the_socket_closes(failing: str) -> None:
    client, source = Client(), Source(b"data: 1\n\n")

    async def send(message: Any) -> None:
        if message["type"] == failing:
            raise ConnectionResetError

    client.send = send  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError):
        client.run(source)
    assert source.calls.count("close") == 1


@pytest.mark.parametrize("leaves", [False, True])
def test_nothing_is_left_to_the_garbage_collector(leaves: bool) -> None:
    gc.disable()
    try:
        source = Source(b"data: 1\n\n", ends=not leaves)
        Client(leaves=leaves).run(source)
        gone = weakref.ref(source.writer), weakref.ref(source)
        del source
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_before_the_first_frame_is_an_ordinary_response(begun: bool) -> None:
    client, source = Client(), Source(ends=False)
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.extend(filter(None, [message.get("status")]))
        client.received += message.get("body", b"")

    def start(writer: SseWriter) -> None:
        if begun:
            writer.push(PING)
        assert writer.begun is begun
        if begun:
            writer.finish(DONE)
        else:
            writer.refuse(ApiError(429, "Full.", code="queue_full"))

    client.send = send  # type: ignore[method-assign]
    source.start = start  # type: ignore[method-assign]
    client.run(source)
    assert statuses == [200 if begun else 429]
    assert (b"queue_full" in client.received) is not begun
    assert client.complete
    assert source.calls == ["close"]


def test_no_ping_while_a_send_is_pending() -> None:
    client, source = Client(), Source(b"data: 1\n\n", ends=False)
    release: list[asyncio.Event] = []
    sends: list[bytes] = []

    async def send(message: Any) -> None:
        frames = message.get("body", b"")
        sends.append(frames)
        if frames == b"data: 1\n\n":  # the socket's buffer is full for many ping intervals
            release.append(asyncio.Event())
            asyncio.get_running_loop().call_later(0.1, release[0].set)
            await release[0].wait()
            source.writer.finish(DONE)

    client.send = send  # type: ignore[method-assign]
    client.run(source, ping=0.01)
    assert sends == [b"", b"data: 1\n\n", DONE]
