"""Whole messages over a stream socket between two processes of one host.

A message is four bytes of length (big-endian) and a body. The end of the stream is the end of the other
process, whatever ended it; what it had sent until then is still read.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

LENGTH = struct.Struct(">I")
BUFFER = 1 << 16


def framed(body: bytes) -> bytes:
    """A message as it goes over the socket."""
    return LENGTH.pack(len(body)) + body


def read_framed(read: Callable[[int], bytes]) -> bytes:
    """The body of the next message. `read` waits, and may bring less than asked. Raises `EOFError`."""
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
    """One end, which never waits. Its owner polls the descriptor: nothing is read or flushed by itself."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unsent = bytearray()
        self._buffer = bytearray(BUFFER)
        self._filled = 0
        self.gone = False
        """The other end is: nothing more will come."""

    @classmethod
    def connect(cls, path: str) -> FramedSocket | None:
        """An end that is connected to whoever listens at `path`; None if nobody does now."""
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        try:
            end.connect(path)
        except OSError:
            end.close()
            return None
        return cls(end)

    def fileno(self) -> int:
        """The descriptor to poll: always for reading, for writing while `blocked`. -1 once it is closed."""
        return self._end.fileno()

    @property
    def blocked(self) -> bool:
        """Something waits until the other end has read; then `flush` must be called."""
        return bool(self._unsent)

    def send(self, body: bytes) -> None:
        """Send a message of any size. Nothing happens if the other end is gone."""
        message = framed(body)
        if self._unsent:
            self._unsent += message
        elif (sent := self._write(message)) < len(message):
            self._unsent += message[sent:]

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        if self._unsent:
            del self._unsent[: self._write(self._unsent)]

    def receive(self) -> list[bytes]:
        """The bodies of messages that are there, of some 64 KiB at once; none only if there are none."""
        while size := self._read():
            self._filled += size
            if bodies := self._complete():
                return bodies
        return []

    def drain(self, patience: float) -> None:
        """Send what waits for as long as the other end goes on reading: it may pause for so many seconds."""
        writable = select.poll()
        writable.register(self._end, select.POLLOUT)
        while self._unsent and writable.poll(patience * 1000):
            self.flush()

    def close(self, patience: float = 0.0) -> None:
        """Close it, `drain`ed before. Idempotent."""
        if self._unsent:
            self.drain(patience)
            self._unsent.clear()
        self._end.close()

    def _read(self) -> int:
        try:
            with memoryview(self._buffer) as view:
                size = self._end.recv_into(view[self._filled :])
        except BlockingIOError:
            return 0
        except OSError:  # it ended without having read everything
            size = 0
        self.gone = not size
        return size

    def _complete(self) -> list[bytes]:
        """Take what is whole; what is left moves to the front of a buffer with room for the rest of it."""
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
        except BlockingIOError:
            return 0
        except OSError:  # it is gone; reading will tell
            return len(data)
