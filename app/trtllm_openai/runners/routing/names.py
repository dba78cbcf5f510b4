"""Names of a prompt's prefixes, made in microseconds: what one runner holds and another does not.

A prompt is cut at fixed depths, every 64 tokens at first and then at depths that grow by a quarter. The name
of a depth is a hash of the name of the depth before it and of tokens between the two: all of them in the
first 512, then every so many that there are about 24. Names of equal prefixes are equal; a prefix that
differs in a token which is not looked at has the name of another, which costs a request its better runner and
nothing else. Engines name every block by all of its tokens (`engines/torch/block_pool.py`), which takes a
millisecond for 32 thousand tokens, and a fortieth of it is what a decision may take.

Names are the same in every process of one Python version: hashes of integers are not salted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

STEP = 64
"""Tokens between two depths at first, and what all depths are multiples of."""
EXACT = 512
"""Depth up to which every token counts."""
GROWTH = 1.25
"""Ratio of two depths after that."""
SAMPLES = 24
"""Tokens that count between two depths after `EXACT`."""
DEEPEST = 1 << 21


def _segments() -> list[tuple[int, int, int]]:
    segments, begin = [], 0
    while begin < DEEPEST:
        grown = int(begin * GROWTH) // STEP * STEP
        end = begin + STEP if begin < EXACT else max(begin + STEP, grown)
        segments.append((begin, end, 1 if end <= EXACT else max(1, (end - begin) // SAMPLES)))
        begin = end
    return segments


SEGMENTS = _segments()
"""(begin, end, stride) of the tokens that the name of each depth adds."""
DEPTHS = [end for _, end, _ in SEGMENTS]
"""Tokens that the name of each level covers."""


def seed(*parts: str) -> int:
    """What names of prompts begin with: prompts with other `parts` (salt, adapter) share none."""
    if not any(parts):
        return 0
    digest = blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def prefix_names(tokens: Sequence[int], name: int, first: int = 0) -> Iterator[int]:
    """The names of a prompt's prefixes, shortest first: that of level i covers `DEPTHS[i]` tokens.

    They begin with level `first`, and `name` is that of the level before it; of level 0, a `seed`. A prompt
    shorter than the first depth has none.
    """
    length = len(tokens)
    for begin, end, stride in SEGMENTS[first:]:
        if end > length:
            return
        name = hash((name, *tokens[begin:end:stride]))
        yield name
