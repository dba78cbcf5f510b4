"""Who holds which KV block, and which blocks can serve again: prefix caching.

A full block's content follows from all tokens up to its end, so its name is a hash of its own tokens and the
name of the block before it. A block that no sequence holds any more keeps its content until its place is
needed; the one unused longest goes first. Block ids start at 1.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b

BLOCK_NAME_BYTES = 16


def first_name(salt: str | None) -> bytes:
    """What the first block's name is chained to. Requests with different salts share no block."""
    return blake2b(b"" if salt is None else b"s" + salt.encode(), digest_size=BLOCK_NAME_BYTES).digest()


def block_name(previous: bytes, tokens: list[int]) -> bytes:
    """The name of a block of `tokens` after the block called `previous`."""
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=BLOCK_NAME_BYTES).digest()


class BlockPool:
    """Counts who holds each block; remembers named ones after nobody does."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._empty = list(range(blocks, 0, -1))  # low ids first: they are warm
        self._idle: OrderedDict[int, None] = OrderedDict()  # named and held by nobody, oldest first
        self._holders = [0] * (blocks + 1)
        self._names: dict[int, bytes] = {}
        self._blocks: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.total - self.free

    def take(self, count: int) -> list[int]:
        """`count` blocks, which must be free. Their content is forgotten."""
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        taken = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def find(self, names: list[bytes]) -> list[int]:
        """The blocks called `names`, up to the first that is not there."""
        found = []
        for name in names:
            block = self._blocks.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: list[int]) -> int:
        """How many of `blocks` nobody holds: sharing them leaves so many fewer free."""
        return sum(not self._holders[block] for block in blocks)

    def share(self, blocks: list[int]) -> None:
        """Hold `blocks`, which `find` gave, too."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)

    def name(self, block: int, name: bytes) -> None:
        """Let a block that is held be found. The first one of a name keeps it."""
        if name not in self._blocks and block not in self._names:
            self._names[block] = name
            self._blocks[name] = block

    def give_back(self, blocks: list[int]) -> None:
        """Hold a sequence's `blocks` no longer. Its last ones are evicted first: nothing follows them."""
        for block in reversed(blocks):
            if not self._holders[block]:
                raise ValueError(f"block {block} is held by nobody")
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._names:
                self._idle[block] = None
            else:
                self._empty.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._blocks[self._names.pop(block)]
        return block
