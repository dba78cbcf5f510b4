"""Compiled guides for the next requests with the same ones: agents send the same tools again and again.

A matcher is copied in tens of microseconds, and compiled in milliseconds. What is kept depends on the guide
alone, and a copy shares nothing with it that changes.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import msgspec

from trtllm_openai.engines.torch.guides import GuideMatcher
from trtllm_openai.generation import Guide

MAX_GUIDES = 512
MAX_BYTES = 64 << 20
BYTES, BYTES_PER_CHARACTER = 80 << 10, 64
"""Memory of a compiled guide, as measured for schemas of 300 to 25,000 characters (llguidance 1.9)."""
_encode = msgspec.msgpack.Encoder().encode


class GuideCache:
    """The guides that were used last, up to `MAX_GUIDES` and about `MAX_BYTES`. Not thread-safe."""

    def __init__(self, max_guides: int = MAX_GUIDES, max_bytes: int = MAX_BYTES) -> None:
        self._max_guides, self._max_bytes = max_guides, max_bytes
        self._kept: OrderedDict[bytes, tuple[GuideMatcher, int]] = OrderedDict()
        self.bytes = 0
        """Memory of the cached guides, estimated."""
        self.hits = 0
        self.misses = 0

    def get(self, guide: Guide) -> GuideMatcher | None:
        """A matcher at the beginning of its text; None if the guide is not kept."""
        key = _key(guide)
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return found[0].fresh()

    def add(self, guide: Guide, matcher: GuideMatcher) -> None:
        """Keep a copy of `matcher`, which has not read any text. A guide that is too large is not kept."""
        key, size = _key(guide), BYTES + BYTES_PER_CHARACTER * len(guide.text)
        if key in self._kept or size > self._max_bytes:
            return
        self._kept[key] = matcher.fresh(), size
        self.bytes += size
        while len(self._kept) > self._max_guides or self.bytes > self._max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.bytes -= dropped


def _key(guide: Guide) -> bytes:
    """A hash of everything that determines the matcher; names of request parameters do not."""
    plain = msgspec.structs.replace(guide, param="", origins=(), optional=False)
    return blake2b(_encode(plain), digest_size=16).digest()
