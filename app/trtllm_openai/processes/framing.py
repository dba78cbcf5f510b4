"""Framed messages over a stream socket between two processes.

A message is a length (4 bytes, big-endian) and a body. End of stream means that the other process is gone;
everything that it sent before is still delivered.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Callable

LENGTH = struct.Struct(">I")
BUFFER = 1 << 16
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""The socket, or TLS on it, has nothing to read or takes nothing more."""


def framed(body: bytes) -> bytes:
    """The message's bytes on the socket."""
    return LENGTH.pack(len(body)) + body


def read_framed(read: Callable[[int], bytes]) -> bytes:
    """The body of the next message. `read(size)` blocks and may return fewer bytes. Raises `EOFError`."""
    return _exactly(read, *LENGTH.unpack(_exactly(read, LENGTH.size)))


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = read(size - len(found))
        if not piece:
            raise EOFError("the other process is gone")
        found += piece
    return bytes(found)


class FramedSocket:
    """One end of a stream socket, non-blocking: the caller polls it and calls `receive` and `flush`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._tls = end if isinstance(end, ssl.SSLSocket) else None
        self._unsent = bytearray()
        self._buffer = bytearray(BUFFER)
        self._filled = 0
        self.gone = False
        """The other end has closed: nothing more will arrive."""

    def fileno(self) -> int:
        """The descriptor to poll: for reading always, for writing while `blocked`. -1 once closed."""
        return self._end.fileno()

    @property
    def blocked(self) -> bool:
        """Whether output is queued; call `flush` when the socket is writable."""
        return bool(self._unsent)

    def send(self, body: bytes) -> None:
        """Send a message, or queue the part that does not fit. Does nothing if the other end is gone."""
        message = framed(body)
        if self._unsent:
            self._unsent += message
        elif (sent := self._write(message)) < len(message):
            self._unsent += message[sent:]

    def flush(self) -> None:
        """Send as much of the queued output as the socket takes."""
        if self._unsent:
            del self._unsent[: self._write(self._unsent)]

    def receive(self) -> list[bytes]:
        """Message bodies that have arrived, about 64 KiB of them; empty only if none is complete."""
        bodies: list[bytes] = []
        total = 0
        # TLS gives a record, often one message, at a time; and of what it has decrypted no poll would tell.
        while not bodies or (self._tls is not None and (total < BUFFER or self._tls.pending())):
            size = self._read()
            if not size:
                break
            total += size
            self._filled += size
            bodies += self._complete()
        return bodies

    def drain(self, timeout_s: float) -> None:
        """Send the queued output. Gives up once the other end has not read for `timeout_s` seconds."""
        writable = select.poll()
        writable.register(self._end, select.POLLOUT)
        while self._unsent and writable.poll(timeout_s * 1000):
            self.flush()

    def close(self, drain_timeout_s: float = 0.0) -> None:
        """`drain`, then close. Idempotent."""
        if self._unsent:
            self.drain(drain_timeout_s)
            self._unsent.clear()
        self._end.close()

    def _read(self) -> int:
        try:
            with memoryview(self._buffer) as view:
                size = self._end.recv_into(view[self._filled :])
        except NOT_NOW:
            return 0
        except OSError:  # reset: the other end closed with unread input
            size = 0
        self.gone = not size
        return size

    def _complete(self) -> list[bytes]:
        """Take complete messages; move the rest to the front, growing the buffer to fit that message."""
        bodies = []
        begin, size = 0, 0
        with memoryview(self._buffer) as view:
            while self._filled - begin >= LENGTH.size:
                (size,) = LENGTH.unpack_from(view, begin)
                end = begin + LENGTH.size + size
                if end > self._filled:
                    break
                bodies.append(bytes(view[begin + LENGTH.size : end]))
                begin, size = end, 0
            rest = bytes(view[begin : self._filled])
        self._filled = len(rest)
        wanted = max(BUFFER, LENGTH.size + size)
        if wanted != len(self._buffer):
            self._buffer = bytearray(wanted)
        self._buffer[: self._filled] = rest
        return bodies

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._end.send(data)
        except NOT_NOW:
            return 0
        except OSError:  # the other end is gone; reading will notice
            return len(data)
