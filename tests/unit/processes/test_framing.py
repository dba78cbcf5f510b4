"""Messages survive the stream, whatever their size and however it is cut; and the other end's end."""

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.processes.framing import BUFFER, FramedSocket, framed


@pytest.fixture
def pair() -> Iterator[tuple[FramedSocket, FramedSocket]]:
    ends = [FramedSocket(end) for end in socket.socketpair()]
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def everything(end: FramedSocket) -> list[bytes]:
    found = []
    while bodies := end.receive():
        found += bodies
    return found


def read_until(end: FramedSocket, found: list[bytes], number: int) -> None:
    while len(found) < number:
        found += end.receive()


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_it_does_not_matter_how_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    raw, end = socket.socketpair()
    with raw:
        reader = FramedSocket(end)
        stream = b"".join(map(framed, bodies))
        found = []
        for cut in [*cuts, len(stream) + 1]:
            raw.sendall(stream[:cut])
            stream = stream[cut:]
            found += everything(reader)
        assert found == bodies
        reader.close()


@pytest.mark.parametrize("size", [0, BUFFER - 4, BUFFER - 3, 10 * BUFFER, 5_000_000])
def test_any_size(pair: tuple[FramedSocket, FramedSocket], size: int) -> None:
    first, second = pair
    bodies = [b"before", b"x" * size, b"after"]
    for body in bodies:
        first.send(body)
    found: list[bytes] = []
    while len(found) < 3:
        found += second.receive()
        first.flush()
    assert found == bodies
    assert not first.blocked


def test_sending_never_waits_and_loses_nothing(pair: tuple[FramedSocket, FramedSocket]) -> None:
    first, second = pair
    for number in range(1000):
        first.send(str(number).encode() * 1000)
    filled = first.blocked
    assert filled
    found: list[bytes] = []
    while first.blocked:
        found += everything(second)
        first.flush()
    found += everything(second)
    assert found == [str(number).encode() * 1000 for number in range(1000)]


def test_last_words_are_heard(pair: tuple[FramedSocket, FramedSocket]) -> None:
    first, second = pair
    first.send(b"x" * 3_000_000)
    assert first.blocked
    closing = threading.Thread(target=first.close, args=[10.0])
    closing.start()
    found: list[bytes] = []
    while not second.gone:
        found += second.receive()
    closing.join()
    assert found == [b"x" * 3_000_000]
    second.send(b"to nobody")
    assert not second.blocked


def test_last_words_that_nobody_hears_hold_nobody_up(pair: tuple[FramedSocket, FramedSocket]) -> None:
    first, second = pair
    first.send(b"x" * 3_000_000)
    first.close(0.05)
    assert not second.gone
    while not second.gone:
        assert second.receive() == []  # what came of it is no message


def test_draining_goes_on_while_the_other_end_reads(pair: tuple[FramedSocket, FramedSocket]) -> None:
    first, second = pair
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: read_until(second, found, 1))
    first.send(b"x" * 5_000_000)
    reading.start()
    first.drain(5.0)
    assert not first.blocked
    reading.join()
    first.send(b"x" * 5_000_000)
    first.drain(0.01)
    assert first.blocked
