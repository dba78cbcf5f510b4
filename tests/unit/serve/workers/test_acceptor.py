"""Accepting from a shared listening socket: balance between workers, and connections that fail."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.serve.workers import acceptor as acceptor_module
from trtllm_openai.serve.workers.acceptor import AHEAD, Acceptor


class Listener(socket.socket):
    """Fails once with each of `errors` before it accepts."""

    errors: list[OSError]

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            raise self.errors.pop(0)
        return super().accept()


class Site:
    """Two rows of shared counters: this worker's, and another's."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.listener.errors = []
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.setblocking(False)
        owner = SharedCounters.create(2)
        assert owner.fd is not None
        self.fd = owner.fd
        self.own, self.other = (SharedCounters.attach(owner.fd, 2, row) for row in (0, 1))
        self.accepted: list[socket.socket] = []
        self.already = 0
        """Connections that this worker has besides."""
        self.fails = False
        self.set_up = asyncio.Event()
        """Connections may leave the set-up."""
        self.set_up.set()
        self.acceptor = Acceptor(self.listener, self.own, self._connect, self._count)
        self._clients: list[socket.socket] = []

    def _connect(self, connection: socket.socket) -> Coroutine[Any, Any, None]:
        self.accepted.append(connection)
        return self._set_up()

    async def _set_up(self) -> None:
        await self.set_up.wait()
        if self.fails:
            raise ConnectionResetError("a failed TLS handshake")

    def _count(self) -> int:
        return self.already + len(self.accepted)

    def call(self) -> None:
        """A client connects."""
        client = socket.create_connection(self.listener.getsockname())
        self._clients.append(client)

    def close(self) -> None:
        self.acceptor.stop()
        for one in (self.listener, *self.accepted, *self._clients):
            one.close()
        os.close(self.fd)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    subject = Site()
    try:
        async with asyncio.timeout(30):
            yield subject
    finally:
        subject.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_connections_are_accepted_and_counted_until_it_stops() -> None:
    async def test() -> None:
        async with site() as subject:
            subject.call()
            await asyncio.sleep(0.02)
            assert not subject.accepted
            subject.acceptor.start()
            assert subject.own.accepting
            await until(lambda: subject.accepted)
            subject.set_up.clear()
            subject.call()
            await until(lambda: len(subject.accepted) == 2)
            assert subject.own.connections == 2  # also while one is being set up
            one = subject.accepted[0]
            assert not one.getblocking()
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            subject.acceptor.stop()
            subject.call()
            await asyncio.sleep(0.02)
            assert len(subject.accepted) == 2
            assert (subject.own.accepting, subject.own.connections) == (False, 2)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("ahead", "other_accepts", "steps_back"),
    [(AHEAD, True, False), (AHEAD + 1, True, True), (AHEAD + 1, False, False)],
)
def test_a_worker_with_more_connections_steps_back_once(
    monkeypatch: pytest.MonkeyPatch, ahead: int, other_accepts: bool, steps_back: bool
) -> None:
    monkeypatch.setattr(acceptor_module, "STEP_BACK_S", 0.3)

    async def test() -> None:
        async with site() as subject:
            subject.other.connections, subject.other.accepting = 4, other_accepts
            subject.already = 4 + ahead
            begin = asyncio.get_running_loop().time()
            subject.acceptor.start()
            subject.call()
            await until(lambda: subject.accepted)  # after the pause anyway: the other may be busy
            assert (asyncio.get_running_loop().time() - begin > 0.25) is steps_back

    asyncio.run(test())


def test_a_worker_that_is_not_ready_leaves_connections_to_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor_module, "BEHIND_S", 0.001)

    async def test() -> None:
        async with site() as subject:
            subject.own.set_ready(False)
            subject.acceptor.start()
            subject.call()
            await until(lambda: subject.accepted)  # nobody is ready: it says so itself
            assert subject.other.others_behind
            subject.other.set_ready(True)
            subject.call()
            await until(lambda: not subject.own.accepting)
            assert subject.other.others_behind  # for the connection that it has
            subject.own.connections = 0
            await until(lambda: not subject.other.others_behind)
            await asyncio.sleep(0.02)
            assert len(subject.accepted) == 1
            subject.own.set_ready(True)
            await until(lambda: len(subject.accepted) == 2)
            subject.own.set_ready(False)
            subject.other.set_ready(None)  # it ends
            subject.call()
            await until(lambda: len(subject.accepted) == 3)

    asyncio.run(test())


def test_a_connection_that_another_worker_took_does_no_harm() -> None:
    async def test() -> None:
        async with site() as subject:
            subject.listener.errors = [BlockingIOError(), ConnectionAbortedError()]
            subject.acceptor.start()
            subject.call()
            await until(lambda: subject.accepted)
            assert subject.listener.errors == []

    asyncio.run(test())


def test_without_a_free_descriptor_it_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor_module, "EXHAUSTED_S", 0.1)

    async def test() -> None:
        async with site() as subject:
            subject.listener.errors = [OSError(errno.EMFILE, "Too many open files")]
            begin = asyncio.get_running_loop().time()
            subject.acceptor.start()
            subject.call()
            await until(lambda: subject.accepted)
            assert asyncio.get_running_loop().time() - begin > 0.09  # it did not spin

    with caplog.at_level(logging.ERROR):
        asyncio.run(test())
    assert [record.message for record in caplog.records] == [
        "accepting connections failed: [Errno 24] Too many open files"
    ]


def test_a_failed_handshake_ends_that_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with site() as subject:
            subject.acceptor.start()
            subject.fails = True
            subject.call()
            await until(lambda: subject.accepted)
            subject.fails = False
            subject.call()
            await until(lambda: len(subject.accepted) == 2)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(test())
    assert "setting up a connection failed: a failed TLS handshake" in [one.message for one in caplog.records]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
