"""How ranks tell each other that values have arrived, in buffers that all of them can write.

Uses of a buffer are counted on the device, so that CUDA graphs replay without the host; counts may overflow.
Waiting is bounded by `TIMEOUT_NS`; a program that times out stores 1 + the peer's rank in `fault`.
"""

from __future__ import annotations

import triton
import triton.language as tl

TIMEOUT_NS: tl.constexpr = tl.constexpr(20_000_000_000)
"""Long enough for a peer to compile a kernel. The host detects a peer that exited much sooner."""


@triton.jit
def next_use(counts, program):
    """Increment and return the use count of this program."""
    use = tl.load(counts + program) + 1
    tl.debug_barrier()  # all threads have read it
    tl.store(counts + program, use)
    return use


@triton.jit
def raise_flags(flags, use, program, programs, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Signal every peer that this rank's part of `program` is written."""
    tl.debug_barrier()  # all threads' stores precede the release
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        theirs = tl.load(flags + peer).to(tl.pointer_type(tl.int32))
        tl.atomic_xchg(theirs + RANK * programs + program, use, sem="release", scope="sys")


@triton.jit
def await_flags(mine, fault, use, program, programs, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Wait until every peer's part of `program` has arrived. `mine`: this rank's flags."""
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        flag = mine + peer * programs + program
        seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")
        if use - seen > 0:  # not seen < use: after a day of decoding, the count overflows
            began = tl.extra.cuda.globaltimer()
            late = tl.load(fault) > 0  # after one timeout, other programs do not wait
            while (use - seen > 0) & (late == 0):
                seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")
                late = (tl.extra.cuda.globaltimer() - began) > TIMEOUT_NS
            if use - seen > 0:
                tl.store(fault, peer + 1)
    tl.debug_barrier()


@triton.jit
def _missing(seen, inside, tag):
    """Positive if one of the words `inside` lacks the `tag`."""
    return tl.max(tl.where(inside, ((seen ^ tag) >> 16) & 65535, 0))


@triton.jit
def await_tags(words, inside, tag, fault, peer):
    """Read `words` until all of those `inside` carry `tag`, and return them."""
    seen = tl.load(words, mask=inside, other=0, volatile=True)
    missing = _missing(seen, inside, tag)
    if missing > 0:
        began = tl.extra.cuda.globaltimer()
        late = tl.load(fault) > 0  # after one timeout, other programs do not wait
        while (missing > 0) & (late == 0):
            seen = tl.load(words, mask=inside, other=0, volatile=True)
            missing = _missing(seen, inside, tag)
            late = (tl.extra.cuda.globaltimer() - began) > TIMEOUT_NS
        if missing > 0:
            tl.store(fault, peer + 1)
    return seen
