"""Further sources of model weights: a checkpoint read by several threads, and random tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

from trtllm_openai.engines.torch.weights import WHOLE, Weights

READERS = 8
"""Reader threads: enough to saturate a fast disk and the copy to the device."""
SPREAD = 0.02
"""Standard deviation of random matrices, as in common model initialization."""


class WeightSource(Protocol):
    """A source of a model's tensors, such as `engines.torch.weights.Weights`."""

    def has(self, name: str) -> bool: ...

    def take(self, name: str, *shape: int, part: slice = WHOLE, axis: int = 0) -> torch.Tensor: ...

    def drop(self, name: str) -> None: ...

    def check_all_taken(self) -> None: ...


class ParallelWeights(Weights):
    """Starts to read all tensors at construction; `take` waits for the requested one."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__(directory, dtype, device, progress)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="weights")
        self._reading: dict[str, Future[torch.Tensor]] = {
            name: self._threads.submit(self._read, path, name) for name, path in self._where.items()
        }

    def drop(self, name: str) -> None:
        super().drop(name)
        self._reading.pop(name, None)

    def check_all_taken(self) -> None:
        self._threads.shutdown()
        super().check_all_taken()

    def _load(self, name: str, file: safe_open, part: tuple[slice, ...] | None) -> torch.Tensor:
        whole = self._reading.pop(name).result()
        return whole if part is None else whole[part]

    def _read(self, path: Path, name: str) -> torch.Tensor:
        return super()._load(name, self._files[path], None).to(self._device, self._dtype)


class RandomWeights:
    """Random tensors created on the device, to benchmark a model shape without its weights."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._generator = torch.Generator(device).manual_seed(0)

    def has(self, name: str) -> bool:
        return False  # biases

    def take(self, name: str, *shape: int, part: slice = WHOLE, axis: int = 0) -> torch.Tensor:
        sizes = list(shape)
        sizes[axis] = len(range(*part.indices(sizes[axis])))
        if len(shape) == 1:
            return torch.ones(sizes, dtype=self._dtype, device=self._device)
        made = torch.empty(sizes, dtype=self._dtype, device=self._device)
        return made.normal_(std=SPREAD, generator=self._generator)

    def drop(self, name: str) -> None: ...

    def check_all_taken(self) -> None: ...
