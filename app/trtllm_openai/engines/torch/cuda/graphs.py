"""CUDA graphs of decode steps, captured per batch size: one launch replaces some hundred."""

from __future__ import annotations

from collections.abc import Callable

import torch

Decode = Callable[[int], torch.Tensor]
"""Computes a decode step of the given number of rows of the static input; returns logits [rows, vocab]."""


def ladder(most: int) -> list[int]:
    """Batch sizes to capture, up to `most`. Padding rows are cheap; each size costs memory and startup."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, most, 32)]
    return [*(size for size in sizes if size < most), most]


class Graphs:
    """CUDA graphs of `decode` for all batch sizes of `ladder(most)`."""

    def __init__(self, decode: Decode, most: int) -> None:
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._sizes = ladder(most)
        pool = None
        # Largest first, so that the smaller graphs reuse its memory pool.
        for size in reversed(self._sizes):
            decode(size)  # warm-up: kernels must not compile during capture
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # NCCL runs threads
                logits = decode(size)
            pool = pool or graph.pool()
            self._graphs[size] = graph, logits

    def size(self, rows: int) -> int:
        """Return the smallest captured batch size for `rows`."""
        return next(size for size in self._sizes if size >= rows)

    def replay(self, size: int) -> torch.Tensor:
        """Replay the graph of `size` rows; returns logits that the next replay overwrites."""
        graph, logits = self._graphs[size]
        graph.replay()
        return logits
