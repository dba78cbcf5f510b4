"""Messages of other processes that cannot be decoded: logged and counted; none of them ends a connection.

Both ends are of one release, so that such a message is a bug, or a damaged one. What it was about fails at
once: nobody waits for the answer to a message that was dropped.
"""

from __future__ import annotations

import logging
from collections import Counter

import msgspec

log = logging.getLogger(__name__)

UNDECODABLE = (ValueError, RecursionError)
"""What a decoder of msgspec raises: `DecodeError` is a `ValueError`, as is that of text that is not UTF-8."""
_seen: Counter[str] = Counter()


def total() -> int:
    """How many messages this process could not decode since it began."""
    return _seen.total()


def report(sender: str, body: bytes, error: Exception) -> list[object]:
    """Log and count a message of `sender`. Returns it as an array of plain values: its tag, then its fields.

    The array is empty if the message is not even that.
    """
    _seen[sender] += 1
    log.error("a message of %d bytes from %s could not be decoded: %s", len(body), sender, error)
    try:
        found = msgspec.msgpack.decode(body)
    except UNDECODABLE:
        return []
    return found if isinstance(found, list) else []


def sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which no message can hold; it may quote a path."""
    return text.encode(errors="replace").decode()
