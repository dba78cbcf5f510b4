"""Mutual authentication of a TCP connection: HMAC-SHA256 challenge and response over a shared secret.

    listener  -> connector   32 bytes: its nonce
    connector -> listener    32 bytes: its nonce; 32 bytes: HMAC(secret, "connector", both nonces)
    listener  -> connector   32 bytes: HMAC(secret, "listener", both nonces)

Each HMAC names the side that sends it, so that neither can be reflected. Messages have fixed sizes: an
unauthenticated peer can make the other side hold 64 bytes and no more. The handshake proves that both sides
know the secret; it neither encrypts nor signs what follows, which is left to TLS (`processes.tls`), where
both sides have an identity, or to the network.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import ssl
import time

from trtllm_openai.processes import tls

NONCE_SIZE = 32
PROOF_SIZE = 32
HANDSHAKE_TIMEOUT_S = 5.0
"""Seconds in which a peer must have proved that it knows the secret."""
_CONTEXT = b"trtllm-openai runner link 1 "


class AuthenticationError(OSError):
    """The peer does not know the secret, or ended the handshake."""


def new_secret() -> str:
    """A secret for one launch: 256 random bits in hexadecimal."""
    return secrets.token_hex(32)


def proof(secret: str, side: bytes, listener_nonce: bytes, connector_nonce: bytes) -> bytes:
    """The HMAC by which `side` (b"listener" or b"connector") proves that it knows the secret."""
    transcript = _CONTEXT + side + b"\0" + listener_nonce + connector_nonce
    return hmac.digest(secret.encode(), transcript, "sha256")


class ListenerHandshake:
    """The listener's side for one accepted connection. Its owner polls the descriptor for reading."""

    def __init__(self, connection: socket.socket, secret: str, identity: str = "") -> None:
        """Send the challenge. `secret` must not be empty. With an `identity` TLS follows the proof."""
        if not secret:
            raise ValueError("a TCP connection cannot be authenticated with an empty secret")
        self.connection = connection
        self.deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        """When the peer is dropped, on the monotonic clock."""
        self._secret = secret
        self._identity = identity
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._received = bytearray()
        connection.setblocking(False)
        _send(connection, self._nonce)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self.connection.fileno()

    def advance(self) -> bool:
        """Read what has come. Returns whether the peer is authenticated, after which `connection` is what
        messages go over. Raises `AuthenticationError`."""
        if isinstance(self.connection, ssl.SSLSocket):
            return self._secure(self.connection)
        try:
            piece = self.connection.recv(NONCE_SIZE + PROOF_SIZE - len(self._received))
        except BlockingIOError:
            return False
        except OSError as error:
            raise AuthenticationError(str(error)) from None
        if not piece:
            raise AuthenticationError("the peer closed the connection during authentication")
        self._received += piece
        if len(self._received) < NONCE_SIZE + PROOF_SIZE:
            return False
        nonce, answer = bytes(self._received[:NONCE_SIZE]), bytes(self._received[NONCE_SIZE:])
        if not hmac.compare_digest(answer, proof(self._secret, b"connector", self._nonce, nonce)):
            raise AuthenticationError("the peer does not know the secret")
        _send(self.connection, proof(self._secret, b"listener", self._nonce, nonce))
        if not self._identity:
            return True
        self.connection = tls.wrapped(self.connection, self._identity, listener=True)
        return self._secure(self.connection)

    def _secure(self, connection: ssl.SSLSocket) -> bool:
        try:
            return tls.advance(connection)
        except OSError as error:
            raise AuthenticationError(f"TLS failed: {error}") from None

    def close(self) -> None:
        """Drop the connection."""
        self.connection.close()


async def authenticate(connection: socket.socket, secret: str) -> None:
    """The connector's side. Raises `AuthenticationError`, `TimeoutError` or `OSError`."""
    if not secret:
        raise AuthenticationError("there is no secret for a TCP connection")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
        listener_nonce = await _receive(connection, NONCE_SIZE)
        nonce = secrets.token_bytes(NONCE_SIZE)
        await loop.sock_sendall(connection, nonce + proof(secret, b"connector", listener_nonce, nonce))
        answer = await _receive(connection, PROOF_SIZE)
    if not hmac.compare_digest(answer, proof(secret, b"listener", listener_nonce, nonce)):
        raise AuthenticationError("the runner does not know the secret")


async def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await asyncio.get_running_loop().sock_recv(connection, size - len(received))
        if not piece:
            raise AuthenticationError("the runner refused the secret")
        received += piece
    return bytes(received)


def _send(connection: socket.socket, body: bytes) -> None:
    """Send a few bytes on a connection with an empty send buffer."""
    try:
        sent = connection.send(body)
    except OSError as error:
        raise AuthenticationError(str(error)) from None
    if sent != len(body):
        raise AuthenticationError("the peer does not read")
