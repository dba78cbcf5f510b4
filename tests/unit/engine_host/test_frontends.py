"""The runner's socket: frontends that do not read, and peers that are not authenticated."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.engine_host.connecting import connect
from trtllm_openai.engine_host import frontends as frontends_module
from trtllm_openai.engine_host.frontends import MAX_UNAUTHENTICATED, SEND_TIMEOUT_S, Frontends
from trtllm_openai.processes import authentication
from trtllm_openai.processes.authentication import NONCE_SIZE, PROOF_SIZE, proof
from trtllm_openai.processes.framing import FramedSocket

MUCH = b"x" * 3_000_000
ENDS: list[FramedSocket] = []
"""The workers' ends of one test."""


@pytest.fixture
def frontends(tmp_path: Path) -> Iterator[Frontends]:
    owner, owned = os.pipe()
    subject = Frontends(f"unix:{tmp_path}/runner.sock", owner)
    yield subject
    subject.close(0.0)
    while ENDS:
        ENDS.pop().close()
    os.close(owner)
    os.close(owned)


def attach(frontends: Frontends, tmp_path: Path) -> tuple[FramedSocket, FramedSocket]:
    """A frontend's end, and the runner's."""
    end = connect(f"unix:{tmp_path}/runner.sock")
    ENDS.append(end)
    ((attached, body),) = frontends.poll()
    assert body is None
    return end, attached


def test_what_a_frontend_reads_does_not_wait_for_the_next_step(
    frontends: Frontends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontends_module, "SEND_TIMEOUT_S", 30.0)  # the reader may be late on a busy machine
    end, attached = attach(frontends, tmp_path)
    found: list[bytes] = []

    def read() -> None:
        while len(found) < 5:
            found.extend(end.receive())

    reading = threading.Thread(target=read)
    reading.start()
    for _ in range(5):
        frontends.send(attached, MUCH)
        assert not attached.blocked
    reading.join(10)
    assert found == [MUCH] * 5


def test_a_deleted_socket_is_made_again(
    frontends: Frontends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, attached = attach(frontends, tmp_path)
    socket_file = tmp_path / "runner.sock"
    was = socket_file.stat().st_ino
    frontends.keep_listening()
    assert socket_file.stat().st_ino == was
    ways: list[Callable[[], object]] = [socket_file.unlink, lambda: shutil.rmtree(tmp_path)]
    for delete in ways:
        delete()
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
            frontends.keep_listening()
            assert not socket_file.exists()  # the directory is somebody else's
        frontends.keep_listening()
        second, _ = attach(frontends, tmp_path)
        frontends.send(attached, b"both")
        while not (bodies := first.receive()):
            pass
        assert bodies == [b"both"]
        assert second.receive() == []


def test_a_frontend_that_does_not_read_is_waited_for_once(
    frontends: Frontends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, attached = attach(frontends, tmp_path)
    drain, drains = attached.drain, list[float]()

    def count_drain(timeout_s: float) -> None:
        drains.append(timeout_s)
        drain(timeout_s)

    monkeypatch.setattr(attached, "drain", count_drain)
    for _ in range(100):
        frontends.send(attached, MUCH[:100_000])
    assert drains == [SEND_TIMEOUT_S]
    filled = attached.blocked
    assert filled
    found: list[bytes] = []
    while len(found) < 100:
        assert list(frontends.poll()) == []
        found += end.receive()
    assert not attached.blocked
    assert found == [MUCH[:100_000]] * 100


def test_a_frontend_that_left_without_reading(frontends: Frontends, tmp_path: Path) -> None:
    end, attached = attach(frontends, tmp_path)
    frontends.send(attached, MUCH)
    end.close()
    assert list(frontends.poll()) == [(attached, None)]
    assert attached.gone
    assert frontends.attached == []
    frontends.send(attached, b"to nobody")
    assert not attached.blocked


SECRET = "a secret"


@pytest.fixture
def tcp() -> Iterator[tuple[Frontends, int]]:
    """Frontends at a TCP port, and the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    owner, owned = os.pipe()
    subject = Frontends(f"tcp://127.0.0.1:{port}", owner, SECRET)
    yield subject, port
    subject.close(0.0)
    os.close(owner)
    os.close(owned)


def test_a_port_that_other_machines_reach_is_not_opened_without_tls() -> None:
    owner, owned = os.pipe()
    with pytest.raises(ValueError, match=r"the link to tcp://0\.0\.0\.0:1 would be plain text"):
        Frontends("tcp://0.0.0.0:1", owner, SECRET)
    os.close(owner)
    os.close(owned)


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def poll(frontends: Frontends, times: int = 5) -> list[tuple[FramedSocket, bytes | None]]:
    """Poll until nothing more comes."""
    found = []
    for _ in range(times):
        frontends.wait(0.1)
        found += list(frontends.poll())
    return found


def answer(peer: socket.socket, secret: str, side: bytes = b"connector") -> bytes:
    """Answer the challenge with this secret; returns both nonces."""
    challenge, nonce = peer.recv(NONCE_SIZE, socket.MSG_WAITALL), b"n" * NONCE_SIZE
    peer.sendall(nonce + proof(secret, side, challenge, nonce))
    return challenge + nonce


def is_closed(peer: socket.socket) -> bool:
    """Whether the other side closed the connection, with nothing more to read."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_tcp_needs_a_secret() -> None:
    with pytest.raises(ValueError, match="only with a secret"):
        Frontends("tcp://127.0.0.1:1", 0)


def test_a_peer_that_knows_the_secret_is_attached_and_gets_proof(tcp: tuple[Frontends, int]) -> None:
    frontends, port = tcp
    with dial(port) as peer:
        poll(frontends, 1)
        nonces = answer(peer, SECRET)
        ((attached, body),) = poll(frontends)
        assert body is None
        assert frontends.attached == [attached]
        expected = proof(SECRET, b"listener", nonces[:NONCE_SIZE], nonces[NONCE_SIZE:])
        assert peer.recv(PROOF_SIZE, socket.MSG_WAITALL) == expected
        assert frontends.unauthenticated == 0


@pytest.mark.parametrize(
    ("secret", "side"), [("another", b"connector"), ("", b"connector"), (SECRET, b"listener")]
)
def test_a_peer_without_the_secret_is_refused(tcp: tuple[Frontends, int], secret: str, side: bytes) -> None:
    frontends, port = tcp
    with dial(port) as peer:
        poll(frontends, 1)
        answer(peer, secret, side)
        assert poll(frontends) == []
        assert (frontends.attached, frontends.unauthenticated) == ([], 0)
        assert is_closed(peer)


def test_a_peer_that_sends_frames_instead_is_refused(tcp: tuple[Frontends, int]) -> None:
    frontends, port = tcp
    with dial(port) as peer:
        poll(frontends, 1)
        peer.sendall(b"\xff" * 1_000_000)
        assert poll(frontends) == []
        assert frontends.attached == []
        assert is_closed(peer)


def test_a_flood_of_peers_is_bounded_and_does_not_lock_others_out(tcp: tuple[Frontends, int]) -> None:
    frontends, port = tcp
    flood = [dial(port) for _ in range(3 * MAX_UNAUTHENTICATED)]
    poll(frontends, len(flood))
    assert frontends.unauthenticated == MAX_UNAUTHENTICATED
    assert is_closed(flood[0])
    with dial(port) as peer:
        poll(frontends, 1)
        answer(peer, SECRET)
        assert len(poll(frontends)) == 1
    for one in flood:
        one.close()


def test_a_silent_peer_is_dropped_at_its_deadline(
    tcp: tuple[Frontends, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frontends, port = tcp
    monkeypatch.setattr(authentication, "HANDSHAKE_TIMEOUT_S", -1.0)
    with dial(port) as peer:
        poll(frontends, 2)
        assert frontends.unauthenticated == 0
        assert is_closed(peer)
