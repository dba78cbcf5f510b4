"""Accept connections from the listening socket that all workers share, about as many in each worker.

A new connection wakes every worker. A busy worker comes late, and one with more connections than another
steps back for a moment. This only balances: any worker may accept any connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from trtllm_openai.runners.shared_counters import SharedCounters

log = logging.getLogger(__name__)

AHEAD = 2
"""Connections that a worker may have more than another without stepping back."""
STEP_BACK_S = 0.005
"""Seconds in which only the other workers accept."""
EXHAUSTED_S = 1.0
"""Seconds to wait when the system has no descriptor or memory for another connection."""


class Acceptor:
    """Calls `connect` with each connection. `count` returns how many this process has now."""

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
        """Begin to accept connections."""
        self._timer = None
        self._board.accepting = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more connections."""
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
            self._pause(STEP_BACK_S)
            return
        self._stepped_back = False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker accepted it
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._pause(EXHAUSTED_S)
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
