"""CUDA graphs of steps, captured per number of rows: one launch replaces some hundred.

Decode steps, and steps with prefill chunks up to `MOST_PADDED` rows: a larger one computes for longer than
Python takes to launch its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOST_PADDED = 2048
Compute = Callable[[int], torch.Tensor]
"""Computes a step of the given number of rows of the static input; returns a tensor [rows, …]."""


def ladder(most: int) -> list[int]:
    """Batch sizes to capture, up to `most`. Padding rows are cheap; each size costs memory and startup."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, most, 32)]
    return [*(size for size in sizes if size < most), most]


def mixed_ladder(most: int) -> list[int]:
    """Rows to capture of steps with prefill chunks, up to `most`.

    Up to some 256 rows a step takes little longer than reading the weights: the sizes there may be far apart.
    """
    steps = ((16, 32), (32, 256), (64, 512), (128, 1024), (256, most))
    sizes, at = [], 0
    for width, until in steps:
        while at < min(until, most):
            at += width
            sizes.append(at)
    return [*(size for size in sizes if size < most), most]


class Graphs:
    """CUDA graphs of `compute` for all `sizes` (ascending). `beside`: shares the memory of these graphs."""

    pool: Any
    """Handle of the graphs' memory pool."""

    def __init__(
        self,
        compute: Compute,
        sizes: list[int],
        beside: Graphs | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`progress` is called with the share of the graphs that is captured (0..1)."""
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._sizes = sizes
        self.pool = None if beside is None else beside.pool
        # Largest first, so that the smaller graphs reuse its memory pool.
        for done, size in enumerate(reversed(self._sizes)):
            progress(done / len(self._sizes))
            compute(size)  # warm-up: kernels must not compile during capture
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self.pool, capture_error_mode="thread_local"
            ):  # NCCL runs threads
                out = compute(size)
            self.pool = self.pool or graph.pool()
            self._graphs[size] = graph, out

    def size(self, rows: int) -> int:
        """Return the smallest captured size for `rows`, 0 if there is none."""
        return next((size for size in self._sizes if size >= rows), 0)

    def replay(self, size: int) -> torch.Tensor:
        """Replay the graph of `size` rows; returns a tensor that the next replay overwrites."""
        graph, out = self._graphs[size]
        graph.replay()
        return out
