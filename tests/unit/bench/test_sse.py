"""Answers are read the same however the network cuts them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.bench.sse import ResponseReader
from trtllm_openai.errors import BadResponse

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chat(text: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice], "usage": None, **more}).encode()


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """An answer's bytes, its pieces of text, and the completion tokens of its usage."""
    texts = draw(
        st.lists(st.sampled_from(["", "a", 'x"content":"y', "\n\ndata: [DONE]\n\n", "한글"]), max_size=8)
    )
    tokens = draw(st.integers(0, 99))
    compact = draw(st.booleans())
    frames = [chat(""), *map(chat, texts), chat(None), b": ping"]
    frames.append(b'data: {"choices":[],"usage":{"completion_tokens":%d}}' % tokens)
    frames.append(b"data: [DONE]")
    if compact:
        frames = [frame.replace(b'": ', b'":') for frame in frames]
    blank = draw(st.sampled_from([b"\n\n", b"\r\n\r\n"]))
    body = b"".join(frame + blank for frame in frames)
    if draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(1, len(body) - 1), max_size=6)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return (
            EVENTS + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
            sum(map(bool, texts)),
            tokens,
        )
    return EVENTS + b"content-length: %d\r\n\r\n" % len(body) + body, sum(map(bool, texts)), tokens


@given(answers(), st.data())
def test_any_cut_reads_the_same(answer: tuple[bytes, int, int], data: st.DataObject) -> None:
    raw, pieces, tokens = answer
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    reader = ResponseReader()
    for number, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(raw)], strict=True)):
        assert not reader.complete
        reader.feed(raw[a:b], float(number))
    assert reader.complete
    assert reader.status == 200
    assert reader.frames.done
    assert not reader.frames.error
    assert len(reader.frames.times) == pieces
    assert list(reader.frames.times) == sorted(reader.frames.times)
    assert reader.frames.usage() == {"completion_tokens": tokens}


def test_time_is_that_of_the_first_text() -> None:
    reader = ResponseReader()
    reader.feed(EVENTS + b"\r\n" + chat("") + b"\n\n", 1.0)
    reader.feed(chat("He"), 2.0)
    assert not reader.frames.times
    reader.feed(b"\n\n" + chat("llo") + b"\n\n", 3.0)
    assert list(reader.frames.times) == [3.0, 3.0]
    reader.end()
    assert reader.complete


@pytest.mark.parametrize(
    "frame",
    [
        b'data: {"error":{"message":"it broke"}}\n\n',
        b'event: error\ndata: {"error": {"message": "it broke"}}\n\n',
    ],
)
def test_error_event(frame: bytes) -> None:
    reader = ResponseReader()
    reader.feed(EVENTS + b"\r\n" + chat("He") + b"\n\n" + frame, 1.0)
    assert b"it broke" in reader.frames.error
    assert not reader.frames.done


def test_json_answer_keeps_its_body() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 12\r\n\r\n", 0.0)
    complete_before = reader.complete
    reader.feed(b'{"error": 1}', 0.0)
    assert (complete_before, reader.complete) == (False, True)
    assert (reader.status, reader.body, reader.keep_alive) == (503, b'{"error": 1}', False)


@pytest.mark.parametrize("raw", [b"SSH-2.0-x\r\n\r\n", EVENTS + b"transfer-encoding: chunked\r\n\r\nxyz\r\n"])
def test_not_http(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        ResponseReader().feed(raw, 0.0)


@pytest.mark.parametrize(
    ("more", "body", "keep_alive"),
    [
        (b"content-length: 2\r\n", b"{}", True),
        (b"transfer-encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", True),
        (b"content-length: 2\r\nconnection: close\r\n", b"{}", False),
    ],
)
def test_a_connection_is_kept_after_a_complete_response(more: bytes, body: bytes, keep_alive: bool) -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n" + more + b"\r\n" + body, 0.0)
    assert reader.complete
    assert reader.keep_alive == keep_alive
