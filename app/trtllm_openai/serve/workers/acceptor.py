"""Takes connections from the listening socket that all workers share, so that they have about as many each.

Every worker is woken by a connection; who is busy comes later, and who has more connections than another one
steps back for a moment. Neither is needed for correctness: one worker alone takes everything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from trtllm_openai.runners.shared_counters import SharedCounters

log = logging.getLogger(__name__)

AHEAD = 2
"""Connections more than another worker that are no reason to step back."""
STEP_BACK = 0.005
"""Seconds that are left to the others."""
EXHAUSTED = 1.0
"""Seconds to wait when the system has no descriptors or memory for one more connection."""


class Acceptor:
    """Calls `connect` with each connection. `count`: how many this process has now."""

    def __init__(
        self,
        listener: socket.socket,
        board: SharedCounters,
        connect: Callable[[socket.socket], Awaitable[object]],
        count: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._board = board
        self._connect = connect
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stepped_back = False
        self._connecting: set[asyncio.Future[object]] = set()

    def start(self) -> None:
        """Take connections from now on."""
        self._timer = None
        self._board.accepting = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Take no more."""
        self._board.accepting = False
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    def _accept(self) -> None:
        number = self._count() + len(self._connecting)
        self._board.connections = number
        fewest = self._board.fewest_connections()
        if fewest is not None and number > fewest + AHEAD and not self._stepped_back:
            self._stepped_back = True
            self._pause(STEP_BACK)
            return
        self._stepped_back = False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker has it
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._pause(EXHAUSTED)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._board.connections = number + 1
        task = asyncio.ensure_future(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Future[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a connection ended at once: %s", error)  # e.g. a failed TLS handshake

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self.start)
