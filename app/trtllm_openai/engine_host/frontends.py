"""The socket at which HTTP workers reach a runner, and the workers that are attached."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

from trtllm_openai.processes.framing import FramedSocket

BACKLOG = 128
SEND_BUFFER = 1 << 20
"""Bytes that a worker need not have read yet; the system may allow less (Linux: net.core.wmem_max)."""
SEND_TIMEOUT_S = 0.01
"""Seconds that a worker may pause in reading what is more than that."""


class Frontends:
    """Binds a Unix socket at `path`. `owner_fd` becomes readable when the owning process is gone."""

    def __init__(self, path: str, owner_fd: int) -> None:
        self.attached: list[FramedSocket] = []
        self.owner_gone = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)
        self._selector = selectors.PollSelector()  # unlike epoll it takes any file for standard input
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(owner_fd, selectors.EVENT_READ)

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to do; whether there is."""
        return bool(self._selector.select(seconds))

    def poll(self) -> Iterator[tuple[FramedSocket, bytes | None]]:
        """What has come, without waiting: messages; None when a worker attached, or is `gone`, its last."""
        for key, events in self._selector.select(0):
            if isinstance(key.fileobj, FramedSocket):
                yield from self._serve(key.fileobj, events)
            elif key.fileobj is self._listener:
                yield self._attach(), None
            else:
                self.owner_gone = True

    def send(self, worker: FramedSocket, body: bytes) -> None:
        """Send. A worker that does not read is waited for once; what it has not taken goes out as it does."""
        deaf = worker.blocked
        worker.send(body)
        if worker.blocked and not deaf:
            worker.drain(SEND_TIMEOUT_S)
            if worker.blocked:
                self._selector.modify(worker, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def send_all(self, body: bytes) -> None:
        """Send to every worker."""
        for worker in self.attached:
            self.send(worker, body)

    def close(self, patience: float) -> None:
        """Detach from all; what they have not taken yet has so many seconds."""
        self._selector.close()
        self._listener.close()
        for worker in self.attached:
            worker.close(patience)

    def _attach(self) -> FramedSocket:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        worker = FramedSocket(connection)
        self._selector.register(worker, selectors.EVENT_READ)
        self.attached.append(worker)
        return worker

    def _serve(self, worker: FramedSocket, events: int) -> Iterator[tuple[FramedSocket, bytes | None]]:
        if events & selectors.EVENT_WRITE:
            worker.flush()
            if not worker.blocked:
                self._selector.modify(worker, selectors.EVENT_READ)
        if events & selectors.EVENT_READ:
            while bodies := worker.receive():
                for body in bodies:
                    yield worker, body
            if worker.gone:
                self._selector.unregister(worker)
                self.attached.remove(worker)
                worker.close()
                yield worker, None
