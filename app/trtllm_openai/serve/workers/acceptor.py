"""Accept connections from the listening socket that all workers share, balanced between the workers.

A new connection wakes every worker. A worker that has more connections than another one pauses accepting for
a moment. This only balances load: any worker may accept any connection, except that one which is not ready
leaves them to those that are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from trtllm_openai.runners.shared_counters import SharedCounters

log = logging.getLogger(__name__)

AHEAD = 2
"""Surplus of connections over the least loaded worker above which a worker pauses accepting."""
STEP_BACK_S = 0.005
"""Seconds of that pause."""
BEHIND_S = 0.05
"""Seconds after which a worker that is not ready looks again whether it is, or nobody is."""
EXHAUSTED_S = 1.0
"""Seconds to wait when the system has no descriptor or memory for another connection."""


class Acceptor:
    """Calls `connect` with each connection. `count` returns how many this process has now.

    From the moment that `connect` is called, `count` counts its connection, and once.
    """

    def __init__(
        self,
        listener: socket.socket,
        counters: SharedCounters,
        connect: Callable[[socket.socket], Awaitable[object]],
        count: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._counters = counters
        self._connect = connect
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stepped_back = False
        self._connecting: set[asyncio.Future[object]] = set()

    def start(self) -> None:
        """Begin to accept connections."""
        self._timer = None
        if self._counters.behind:
            self._counters.accepting = False
            self._timer = self._loop.call_later(BEHIND_S, self.start)
            return
        self._counters.accepting = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more connections."""
        self._counters.accepting = False
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    def _accept(self) -> None:
        if self._counters.behind:
            self._loop.remove_reader(self._listener)
            self.start()
            return
        number = self._count()
        self._counters.connections = number
        fewest = self._counters.fewest_connections()
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
            log.error("accepting connections failed: %s", error)
            self._pause(EXHAUSTED_S)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.ensure_future(self._connect(connection))
        self._counters.connections = self._count()
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Future[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("setting up a connection failed: %s", error)  # e.g. a failed TLS handshake

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self.start)
