"""The socket at which HTTP processes reach a runner, and those that are attached: its frontends.

Over TCP a peer is authenticated before it is a frontend. Until then it costs 64 bytes and a descriptor, for
`processes.authentication.HANDSHAKE_TIMEOUT_S` at most, and there are never more than `MAX_UNAUTHENTICATED`.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Iterator

from trtllm_openai.processes.address import (
    TcpAddress,
    UnixAddress,
    listen,
    parse_address,
    refuse_plain_text,
    tune_tcp,
)
from trtllm_openai.processes.authentication import AuthenticationError, ListenerHandshake
from trtllm_openai.processes.framing import FramedSocket

log = logging.getLogger(__name__)

BACKLOG = 128
MAX_UNAUTHENTICATED = 16
"""Peers in the middle of their handshake. One more, and the oldest is dropped: as one connection is accepted
in a poll, a peer that answers within that many polls is not."""
SEND_BUFFER = 1 << 20
"""Bytes that a frontend need not have read yet; the system may allow less (Linux: net.core.wmem_max)."""
SEND_TIMEOUT_S = 0.01
"""Seconds that a frontend may pause in reading when more than that is queued."""


class Frontends:
    """Listens at `address`. `owner_fd` becomes readable when the owning process is gone."""

    def __init__(self, address: str, owner_fd: int, secret: str = "", identity: str = "") -> None:
        """`identity`: see `processes.tls`; empty: no TLS.

        Raises `OSError` if nobody can listen there, `ValueError` for TCP without a secret, or without an
        identity where other machines reach the address.
        """
        where = self._address = parse_address(address)
        self.attached: list[FramedSocket] = []
        self.owner_gone = False
        self._secret = secret
        self._identity = identity
        self._tcp = isinstance(where, TcpAddress)
        if self._tcp and not secret:
            raise ValueError("a runner listens on TCP only with a secret")
        refuse_plain_text(where, identity)
        self._unauthenticated: list[ListenerHandshake] = []  # oldest first
        self._listener = listen(where, BACKLOG)
        self._selector = selectors.PollSelector()  # unlike epoll it takes any file for standard input
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(owner_fd, selectors.EVENT_READ)

    @property
    def unauthenticated(self) -> int:
        """Peers in the middle of their handshake."""
        return len(self._unauthenticated)

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to do. Returns whether there is."""
        return bool(self._selector.select(seconds))

    def poll(self) -> Iterator[tuple[FramedSocket, bytes | None]]:
        """Messages that have arrived, without waiting; None for a frontend that attached or is `gone`."""
        for key, events in self._selector.select(0):
            if isinstance(key.fileobj, FramedSocket):
                yield from self._serve(key.fileobj, events)
            elif key.fileobj is self._listener:
                if (frontend := self._accept()) is not None:
                    yield frontend, None
            elif isinstance(key.fileobj, ListenerHandshake):
                if (frontend := self._authenticate(key.fileobj)) is not None:
                    yield frontend, None
            else:
                self.owner_gone = True
        while self._unauthenticated and self._unauthenticated[0].deadline < time.monotonic():
            self._drop(self._unauthenticated[0], "it took too long")

    def send(self, frontend: FramedSocket, body: bytes) -> None:
        """Send. A frontend that does not read is waited for once, `SEND_TIMEOUT_S`; then output is queued."""
        was_blocked = frontend.blocked
        frontend.send(body)
        if frontend.blocked and not was_blocked:
            frontend.drain(SEND_TIMEOUT_S)
            if frontend.blocked:
                self._selector.modify(frontend, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def send_all(self, body: bytes) -> None:
        """Send to every frontend."""
        for frontend in self.attached:
            self.send(frontend, body)

    def keep_listening(self) -> None:
        """Make the Unix socket again if it was deleted, e.g. by what cleans /tmp: workers come later, too."""
        if not isinstance(self._address, UnixAddress) or os.path.exists(self._address.path):
            return
        directory = os.path.dirname(self._address.path)
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            if os.stat(directory).st_uid != os.geteuid():  # somebody took the name of ours
                return
            listener = listen(self._address, BACKLOG)
        except OSError as error:  # e.g. a full disk: the next call may succeed
            log.debug("the socket %s was deleted and not made again: %s", self._address.path, error)
            return
        log.warning("the socket %s was deleted; it is made again", self._address.path)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def close(self, drain_timeout_s: float) -> None:
        """Detach from all; queued output of a frontend that reads is sent first."""
        self._selector.close()
        self._listener.close()
        for handshake in self._unauthenticated:
            handshake.close()
        for frontend in self.attached:
            frontend.close(drain_timeout_s)

    def _accept(self) -> FramedSocket | None:
        """Accept a connection. Returns the frontend, if it is one already."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # it is gone again, or there are no descriptors
            log.debug("a connection was not accepted: %s", error)
            return None
        if not self._tcp:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            return self._attach(connection)
        if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            self._drop(self._unauthenticated[0], "too many others came")
        try:
            tune_tcp(connection)
            handshake = ListenerHandshake(connection, self._secret, self._identity)
        except OSError:
            connection.close()
            return None
        self._unauthenticated.append(handshake)
        self._selector.register(handshake, selectors.EVENT_READ)
        return None

    def _authenticate(self, handshake: ListenerHandshake) -> FramedSocket | None:
        if handshake not in self._unauthenticated:  # dropped in this poll
            return None
        try:
            if not handshake.advance():
                return None
        except AuthenticationError as error:
            self._drop(handshake, str(error))
            return None
        self._selector.unregister(handshake)
        self._unauthenticated.remove(handshake)
        return self._attach(handshake.connection)

    def _drop(self, handshake: ListenerHandshake, reason: str) -> None:
        log.info("an unauthenticated connection was dropped: %s", reason)
        self._selector.unregister(handshake)
        self._unauthenticated.remove(handshake)
        handshake.close()

    def _attach(self, connection: socket.socket) -> FramedSocket:
        frontend = FramedSocket(connection)
        self._selector.register(frontend, selectors.EVENT_READ)
        self.attached.append(frontend)
        return frontend

    def _serve(self, frontend: FramedSocket, events: int) -> Iterator[tuple[FramedSocket, bytes | None]]:
        if events & selectors.EVENT_WRITE:
            frontend.flush()
            if not frontend.blocked:
                self._selector.modify(frontend, selectors.EVENT_READ)
        if events & selectors.EVENT_READ:
            while bodies := frontend.receive():
                for body in bodies:
                    yield frontend, body
            if frontend.gone:
                self._selector.unregister(frontend)
                self.attached.remove(frontend)
                frontend.close()
                yield frontend, None
