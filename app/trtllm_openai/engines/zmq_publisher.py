"""Numbered messages over ZMQ, and again for who missed some: the transport of vLLM's KV events.

A message on the PUB socket has three frames: topic, number (8 bytes, big-endian, from 0), payload. A gap in
the numbers means that messages were lost, and a smaller number that the publisher began again. A subscriber
may then send an empty frame and the number from which it wants them (8 bytes) from a DEALER socket to the
ROUTER socket. It gets those that are still kept, each as empty frame, number, payload, and at the end one
with the number 2^64 - 1 and no payload.

The sockets belong to a thread of their own: the engine only appends to a queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque

import zmq

from trtllm_openai.errors import ConfigError

log = logging.getLogger(__name__)

QUEUE = 100_000
"""Messages that may wait for the thread; the oldest are dropped beyond, which leaves a gap in the numbers."""
HIGH_WATER_MARK = 100_000
"""Messages kept for a subscriber that reads slowly."""
LINGER_MS = 500
"""Milliseconds in which the last messages may still leave when the publisher is closed."""
CLOSE_TIMEOUT_S = 2.0
END = (2**64 - 1).to_bytes(8)
"""Number of the last message of an answer."""


class ZmqPublisher:
    """Implements `engines.kv_events.Publisher`. `index`: the runner's; each has ports of its own."""

    def __init__(
        self, endpoint: str, replay_endpoint: str | None, index: int, topic: str, replay_batches: int
    ) -> None:
        """Raises `ConfigError` if an address cannot be used."""
        self._topic = topic.encode()
        self._queue: deque[tuple[int, bytes]] = deque(maxlen=QUEUE)
        self._number = 0
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=replay_batches)
        self._context = zmq.Context()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        try:
            self._pub = self._open(zmq.PUB, "kv_events.endpoint", endpoint, index)
            self._replay = (
                self._open(zmq.ROUTER, "kv_events.replay_endpoint", replay_endpoint, index)
                if replay_endpoint is not None
                else None
            )
        except ConfigError:
            self._context.destroy(linger=0)
            os.close(self._wake)
            raise
        self._thread = threading.Thread(target=self._run, name="kv events", daemon=True)
        self._thread.start()

    def publish(self, payload: bytes) -> None:
        self._queue.append((self._number, payload))
        self._number += 1
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _open(self, kind: int, setting: str, endpoint: str, index: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = LINGER_MS
        socket.set_hwm(HIGH_WATER_MARK)
        socket.ipv6 = True
        try:
            if listens(endpoint):
                socket.bind(of_runner(endpoint, index))
            else:
                socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"{setting}: {of_runner(endpoint, index)} cannot be used: {error}") from None
        return socket

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        if self._replay is not None:
            poller.register(self._replay, zmq.POLLIN)
        while not (self._closing and not self._queue):
            try:
                ready = dict(poller.poll())
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                    self._send_waiting()
                if self._replay is not None and self._replay in ready:
                    self._send_again(self._replay)
            except zmq.ZMQError:
                log.exception("KV events could not be sent")
        self._context.destroy(linger=LINGER_MS)
        os.close(self._wake)

    def _send_waiting(self) -> None:
        while self._queue:
            number, payload = self._queue.popleft()
            message = number.to_bytes(8), payload
            self._kept.append(message)
            self._pub.send_multipart((self._topic, *message))

    def _send_again(self, replay: zmq.Socket[bytes]) -> None:
        frames = replay.recv_multipart()
        if len(frames) != 3 or len(frames[2]) != 8:
            log.warning("a request for past KV events has %d frames: ignored", len(frames))
            return
        peer, delimiter, first = frames
        with contextlib.suppress(zmq.Again):  # it reads too slowly: the gap stays
            for number, payload in self._kept:
                if number >= first:
                    replay.send_multipart((peer, delimiter, number, payload), zmq.NOBLOCK)
            replay.send_multipart((peer, delimiter, END, b""), zmq.NOBLOCK)


def listens(endpoint: str) -> bool:
    """Whether an address is one to listen at, by vLLM's rule: every interface, or a path."""
    return endpoint.startswith("ipc://") or "*" in endpoint or "::" in endpoint


def of_runner(endpoint: str, index: int) -> str:
    """The address of runner `index`: it listens at a port, or path, of its own, and connects where all do."""
    if not index or not listens(endpoint):
        return endpoint
    if endpoint.startswith("ipc://"):
        return f"{endpoint}-{index}"
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + index}"
