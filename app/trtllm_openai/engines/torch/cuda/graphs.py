"""Decode steps as CUDA graphs: one launch in place of some hundred, for a ladder of batch sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch

Decode = Callable[[int], torch.Tensor]
"""Computes a decode step of so many rows of the static input; the logits [rows, vocab]."""


def ladder(most: int) -> list[int]:
    """Batch sizes up to `most`: rows that only pad cost little, and each size costs memory and start-up."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, most, 32)]
    return [*(size for size in sizes if size < most), most]


class Graphs:
    """The graphs of `decode` for all sizes of the ladder up to `most`."""

    def __init__(self, decode: Decode, most: int) -> None:
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._sizes = ladder(most)
        pool = None
        # The largest first: the others find their memory in what it took.
        for size in reversed(self._sizes):
            decode(size)  # compiles kernels, which may not happen inside
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # NCCL has threads
                logits = decode(size)
            pool = pool or graph.pool()
            self._graphs[size] = graph, logits

    def size(self, rows: int) -> int:
        """The size of the graph that computes so many rows."""
        return next(size for size in self._sizes if size >= rows)

    def replay(self, size: int) -> torch.Tensor:
        """The logits of a step of `size` rows; the next replay overwrites them."""
        graph, logits = self._graphs[size]
        graph.replay()
        return logits
