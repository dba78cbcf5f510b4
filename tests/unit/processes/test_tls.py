"""TLS between two processes with one key pair: framed messages, strangers, what is seen on the way."""

import asyncio
import socket
import ssl
import threading

import pytest

from trtllm_openai.processes.framing import FramedSocket
from trtllm_openai.processes.tls import advance, connected, new_identity, wrapped

IDENTITY = new_identity()


def handshakes(one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
    """Both sides in turns, as polls would have it."""
    for _ in range(20):
        if all([advance(one), advance(other)]):
            return
    raise AssertionError("the handshake does not end")


def pair() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return wrapped(one, IDENTITY, listener=True), wrapped(other, IDENTITY, listener=False)


def test_messages_of_any_size_arrive_whole() -> None:
    ends = pair()
    handshakes(*ends)
    assert ends[0].version() == "TLSv1.3"
    here, there = map(FramedSocket, ends)
    sent = [b"", b"x", b"y" * 70_000, *(bytes([number]) * 30_000 for number in range(60)), b"z" * 3_000_000]
    for body in sent:
        here.send(body)
    assert here.blocked
    got: list[bytes] = []
    for _ in range(10_000):
        here.flush()
        got += there.receive()
        if len(got) == len(sent):
            break
    assert got == sent
    there.send(b"back")
    assert here.receive() == [b"back"]
    there.close()
    assert here.receive() == []
    assert here.gone
    here.close()


def test_small_messages_that_came_together_are_received_together() -> None:
    ends = pair()
    handshakes(*ends)
    here, there = map(FramedSocket, ends)
    here.send(b"a" * 65_000)
    for number in range(200):
        here.send(b"%03d" % number * 40)
    got: list[bytes] = []
    for _ in range(100):
        here.flush()
        got += there.receive()
        assert not ends[1].pending(), "what TLS has decrypted no poll would tell"
    assert len(got) == 201
    here.close()
    there.close()


@pytest.mark.parametrize("stranger", ["listener", "connector"])
def test_one_with_another_key_is_refused(stranger: str) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    mine, theirs = IDENTITY, new_identity()
    listener = wrapped(one, theirs if stranger == "listener" else mine, listener=True)
    connector = wrapped(other, theirs if stranger == "connector" else mine, listener=False)
    with pytest.raises(ssl.SSLError, match=r"verify failed|alert"):
        handshakes(listener, connector)
    listener.close()
    connector.close()


def test_one_that_presents_nothing_is_refused() -> None:
    one, other = socket.socketpair()
    listener = wrapped(one, IDENTITY, listener=True)
    one = listener
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    refused: list[Exception] = []

    def listen() -> None:
        try:
            listener.do_handshake()
        except ssl.SSLError as error:
            refused.append(error)
        listener.close()

    thread = threading.Thread(target=listen)
    thread.start()
    connector = context.wrap_socket(other, do_handshake_on_connect=False)
    connector.do_handshake()
    with pytest.raises(ssl.SSLError):
        connector.recv(1)
    thread.join(10)
    connector.close()
    assert refused


def test_a_peer_without_tls_does_not_hold_the_connector_up() -> None:
    async def test() -> None:
        one, other = socket.socketpair()
        other.setblocking(False)
        with pytest.raises(TimeoutError):
            await connected(other, IDENTITY, 0.05)
        one.close()

        one, other = socket.socketpair()
        other.setblocking(False)
        one.sendall(b"hello " * 20)
        with pytest.raises(OSError):
            await connected(other, IDENTITY, 5.0)
        one.close()

    asyncio.run(test())
