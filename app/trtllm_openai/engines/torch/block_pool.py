"""The KV block allocator: reference counts and the prefix cache.

The content of a full block is determined by all tokens up to its end, so its name is a hash of its own tokens
and the name of the previous block. A block with no references keeps its content until it is evicted, least
recently used first. Block ids start at 1.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

BLOCK_NAME_BYTES = 16


def first_name(salt: str | None) -> bytes:
    """Return the seed of the hash chain of block names. Requests with different salts share no block."""
    return blake2b(b"" if salt is None else b"s" + salt.encode(), digest_size=BLOCK_NAME_BYTES).digest()


def block_name(previous: bytes, tokens: list[int]) -> bytes:
    """Return the name of a block of `tokens` that follows the block named `previous`."""
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=BLOCK_NAME_BYTES).digest()


class BlockPool:
    """Counts references to each block and keeps named blocks cached after their last release."""

    def __init__(self, blocks: int, removed: Callable[[bytes], None] | None = None) -> None:
        """`removed` is called with the name of each block that is evicted."""
        self._removed = removed
        self.total = blocks
        self._empty = list(range(blocks, 0, -1))  # low ids first: their memory is warm
        self._idle: OrderedDict[int, None] = (
            OrderedDict()
        )  # named, without references; least recently used first
        self._holders = [0] * (blocks + 1)
        self._names: dict[int, bytes] = {}
        self._blocks: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Number of blocks without references, including the cached ones that can be evicted."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        """Number of blocks with references."""
        return self.total - self.free

    def take(self, count: int) -> list[int]:
        """Allocate `count` blocks, evicting cached ones. Raises `ValueError` if too few are free."""
        if count > self.free:
            raise ValueError(f"{count} blocks requested, but only {self.free} are free")
        taken = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def find(self, names: list[bytes]) -> list[int]:
        """Look up blocks by name, up to the first cache miss."""
        found = []
        for name in names:
            block = self._blocks.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: list[int]) -> int:
        """Count the `blocks` without references: sharing them lowers `free` by this number."""
        return sum(not self._holders[block] for block in blocks)

    def share(self, blocks: list[int]) -> None:
        """Add a reference to each of `blocks`, which `find` returned."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)

    def name(self, block: int, name: bytes) -> bool:
        """Publish a referenced block in the prefix cache. The first block with a name keeps it.

        Returns whether it is found by this name from now on.
        """
        if name in self._blocks or block in self._names:
            return False
        self._names[block] = name
        self._blocks[name] = block
        return True

    def give_back(self, blocks: list[int]) -> None:
        """Release a sequence's `blocks`. The last ones are evicted first: no cached block extends them.

        Raises `ValueError` if a block has no reference.
        """
        for block in reversed(blocks):
            if not self._holders[block]:
                raise ValueError(f"block {block} has no reference to release")
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._names:
                self._idle[block] = None
            else:
                self._empty.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        name = self._names.pop(block)
        del self._blocks[name]
        if self._removed is not None:
            self._removed(name)
        return block
