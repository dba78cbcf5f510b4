"""Programs that share one result: each stores its part, and the last one to finish combines all of them.

The combination is in the order of the parts, so that the result does not depend on which program is last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SMALLEST_TILE = 16
"""Fewest outputs of a program."""


def counters(weight: torch.Tensor) -> torch.Tensor:
    """Zeros that count the finished programs of each tile of a product with `weight` [out, any].

    Every product leaves zeros. No two products may use them at the same time.
    """
    return torch.zeros(triton.cdiv(len(weight), SMALLEST_TILE), dtype=torch.int32, device=weight.device)


@triton.jit
def is_last(arrived, programs):
    """Whether this one is the last of `programs` to get here, after it stored its part.

    The last one leaves 0 in `arrived`. Its loads of the parts must bypass L1 (`.cg`), since other programs
    wrote them.
    """
    tl.debug_barrier()  # all threads have written before this program counts as finished
    last = tl.atomic_add(arrived, 1, sem="acq_rel") == programs - 1
    if last:
        tl.debug_barrier()
        tl.store(arrived, 0)
    return last


@triton.jit
def sum_of_parts(first, size, inside, PARTS: tl.constexpr):
    """The sum of the parts, of which the first is at `first` and each other one `size` after the last."""
    total = tl.load(first, mask=inside, other=0.0, cache_modifier=".cg")
    for part in tl.static_range(1, PARTS):
        total += tl.load(first + part * size, mask=inside, other=0.0, cache_modifier=".cg")
    return total
