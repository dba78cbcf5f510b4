"""Further sources of model weights: a checkpoint read by several threads, and random tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

from trtllm_openai.engines.torch.quantized.packed import Fp8Weight, LinearWeight, pack_int4
from trtllm_openai.engines.torch.quantized.weight_format import GROUPS, WeightFormat
from trtllm_openai.engines.torch.weights import PLAIN, QUANTIZED, WHOLE, Weights

READERS = 8
"""Reader threads: enough to saturate a fast disk and the copy to the device."""
SPREAD = 0.02
"""Standard deviation of random matrices, as in common model initialization."""


class WeightSource(Protocol):
    """A source of a model's tensors, such as `engines.torch.weights.Weights`."""

    def has(self, name: str) -> bool: ...

    def take(self, name: str, *shape: int, part: slice = WHOLE, axis: int = 0) -> torch.Tensor: ...

    def linear(
        self, name: str, outputs: int, inputs: int, part: slice = WHOLE, axis: int = 0
    ) -> LinearWeight: ...

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
        weight_format: WeightFormat | None = None,
    ) -> None:
        super().__init__(directory, dtype, device, progress, weight_format)
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
        tensor = super()._load(name, self._files[path], None)
        if name.endswith(QUANTIZED) or tensor.dtype not in PLAIN:
            return tensor.to(self._device)
        return tensor.to(self._device, self._dtype)


class RandomWeights:
    """Random tensors created on the device, to benchmark a model shape without its weights."""

    def __init__(
        self, dtype: torch.dtype, device: torch.device, weight_format: WeightFormat | None = None
    ) -> None:
        self._dtype, self._device, self._format = dtype, device, weight_format
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

    def linear(
        self, name: str, outputs: int, inputs: int, part: slice = WHOLE, axis: int = 0
    ) -> LinearWeight:
        """A weight in the checkpoint's format; that of the head is not quantized."""
        if self._format is None or name == "lm_head":
            return self.take(f"{name}.weight", outputs, inputs, part=part, axis=axis)
        sizes = [outputs, inputs]
        sizes[axis] = len(range(*part.indices(sizes[axis])))
        if self._format.fp8:
            values = self.take(name, *sizes).to(torch.float8_e4m3fn)
            return Fp8Weight(values, torch.ones(sizes[0], device=self._device))
        codes = torch.randint(16, sizes, dtype=torch.uint8, device=self._device, generator=self._generator)
        group = self._format.group_size or max(size for size in GROUPS if inputs % size == 0)
        scales = torch.full((sizes[1] // group, sizes[0]), SPREAD / 4, dtype=self._dtype, device=self._device)
        return pack_int4(codes, scales, torch.full_like(scales, 8, dtype=torch.uint8))

    def drop(self, name: str) -> None: ...

    def check_all_taken(self) -> None: ...
