"""The handshake: both sides must know the secret, and nothing can be reflected."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from trtllm_openai.processes import authentication
from trtllm_openai.processes.authentication import (
    NONCE_SIZE,
    PROOF_SIZE,
    AuthenticationError,
    ListenerHandshake,
    authenticate,
    new_secret,
    proof,
)

SECRET = new_secret()


async def listener_side(connection: socket.socket, secret: str) -> None:
    handshake = ListenerHandshake(connection, secret)
    try:
        while not handshake.advance():
            await asyncio.sleep(0.005)
    except AuthenticationError:
        handshake.close()
        raise


def meet(
    listener: Callable[[socket.socket], Awaitable[None]],
    connector: Callable[[socket.socket], Awaitable[None]],
) -> list[BaseException | None]:
    """Run both sides over a pair of sockets; how each ended."""

    async def main() -> list[BaseException | None]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        try:
            return list(await asyncio.gather(listener(ours), connector(theirs), return_exceptions=True))
        finally:
            ours.close()
            theirs.close()

    return asyncio.run(main())


def test_both_know_the_secret() -> None:
    assert meet(lambda end: listener_side(end, SECRET), lambda end: authenticate(end, SECRET)) == [None, None]


def test_a_connector_with_another_secret_is_refused() -> None:
    first, second = meet(lambda end: listener_side(end, SECRET), lambda end: authenticate(end, new_secret()))
    assert isinstance(first, AuthenticationError)
    assert isinstance(second, AuthenticationError)
    assert str(first) == "the peer does not know the secret"
    assert str(second) == "the runner refused the secret"


def test_a_listener_without_the_secret_is_refused() -> None:
    """It lets everybody in, and cannot prove anything: a random proof, or the connector's own reflected."""
    for reflect in (False, True):

        async def impostor(end: socket.socket, reflect: bool = reflect) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(end, b"c" * NONCE_SIZE)
            answer = b""
            while len(answer) < NONCE_SIZE + PROOF_SIZE:
                answer += await loop.sock_recv(end, 1024)
            await loop.sock_sendall(end, answer[NONCE_SIZE:] if reflect else b"x" * PROOF_SIZE)

        _, error = meet(impostor, lambda end: authenticate(end, SECRET))
        assert isinstance(error, AuthenticationError)
        assert "does not know the secret" in str(error)


def test_an_empty_secret_authenticates_nobody() -> None:
    first, second = meet(lambda end: listener_side(end, ""), lambda end: authenticate(end, ""))
    assert isinstance(first, ValueError)
    assert isinstance(second, AuthenticationError)


def test_a_silent_listener_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def silent(end: socket.socket) -> None:
        await asyncio.sleep(0.2)

    _, error = meet(silent, lambda end: authenticate(end, SECRET))
    assert isinstance(error, TimeoutError)


def test_a_proof_is_bound_to_its_side_and_both_nonces() -> None:
    first, second = b"1" * NONCE_SIZE, b"2" * NONCE_SIZE
    proofs = {
        proof(secret, side, *nonces)
        for secret in (SECRET, new_secret())
        for side in (b"listener", b"connector")
        for nonces in ((first, second), (second, first), (first, first))
    }
    assert len(proofs) == 12
