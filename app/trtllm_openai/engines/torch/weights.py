"""Reads the tensors of a checkpoint by name, from a single file or shards, and checks that all are used.

Weights are converted to the model's dtype; the parts of quantized weights are left as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from trtllm_openai.checkpoints.metadata import read_optional_json
from trtllm_openai.checkpoints.weight_files import BESIDE, PACKED
from trtllm_openai.engines.torch.quantized.packed import LinearWeight
from trtllm_openai.engines.torch.quantized.read import read_linear
from trtllm_openai.engines.torch.quantized.weight_format import WeightFormat
from trtllm_openai.errors import CheckpointError

HARMLESS = (
    "rotary_emb.inv_freq",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".prob_scale",
    ".k_proj.output_scale",
    ".v_proj.output_scale",
)
"""Suffixes of tensors that are not needed: frequencies, which follow from the configuration, and scales
calibrated for attention and a KV cache in FP8, since the type of the KV cache is a setting of the engine."""
PLAIN = (torch.bfloat16, torch.float16, torch.float32)
QUANTIZED = PACKED + BESIDE
"""Suffixes of the tensors of quantized layers."""
WHOLE = slice(None)


class Weights:
    """Returns each tensor once, converted; calls `progress` with the fraction taken so far (0..1)."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[float], None] = lambda _: None,
        weight_format: WeightFormat | None = None,
    ) -> None:
        self._format = weight_format
        self._directory, self._dtype, self._device, self._progress = directory, dtype, device, progress
        self._files = {path: _open(path) for path in _weight_files(directory)}
        self._where = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self._total = len(self._where)

    def has(self, name: str) -> bool:
        """Whether the tensor `name` exists and was not taken yet."""
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that was not taken yet."""
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def linear(
        self, name: str, outputs: int, inputs: int, part: slice = WHOLE, axis: int = 0
    ) -> LinearWeight:
        """Read the weight [outputs, inputs] of the layer `name`: `quantized.read.read_linear`."""
        return read_linear(self, self._format, name, outputs, inputs, part, axis)

    def take(
        self, name: str, *shape: int, part: slice = WHOLE, axis: int = 0, as_stored: bool = False
    ) -> torch.Tensor:
        """Read the tensor `name`, or only a `part` of it along `axis`.

        `as_stored`: a part of a quantized weight, which is not converted. Raises `CheckpointError` if the
        tensor is missing, if the whole of it does not have this `shape`, or if it is quantized unexpectedly.
        """
        path = self._where.pop(name, None)
        if path is None:
            raise CheckpointError(f"The checkpoint in {self._directory} lacks the tensor {name}.")
        file = self._files[path]
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != shape:
            raise CheckpointError(
                f"The tensor {name} has the shape {stored.get_shape()}, but config.json says {list(shape)}."
            )
        whole = part == WHOLE or part.indices(shape[axis]) == (0, shape[axis], 1)
        tensor = self._load(name, file, None if whole else (WHOLE,) * axis + (part,))
        self._progress(1 - len(self._where) / self._total)
        if as_stored:
            return tensor.to(self._device)
        if tensor.dtype not in PLAIN:
            raise CheckpointError(
                f"The tensor {name} is {tensor.dtype}, and has no scales that the configuration tells of."
            )
        return tensor.to(self._device, self._dtype)

    def _load(self, name: str, file: safe_open, part: tuple[slice, ...] | None) -> torch.Tensor:
        tensor: torch.Tensor = file.get_tensor(name) if part is None else file.get_slice(name)[part]
        return tensor

    def drop(self, name: str) -> None:
        """Skip a tensor, if it exists."""
        self._where.pop(name, None)

    def check_all_taken(self) -> None:
        """Raises `CheckpointError` if tensors remain: the checkpoint does not match its config.json."""
        rest = sorted(name for name in self._where if not name.endswith(HARMLESS))
        if rest:
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            raise CheckpointError(
                f"The checkpoint in {self._directory} has tensors that its architecture does not use: "
                f"{', '.join(rest[:3])}{more}."
            )


def _weight_files(directory: Path) -> list[Path]:
    index = read_optional_json(directory / "model.safetensors.index.json")
    if index:
        return [directory / name for name in sorted(set(index["weight_map"].values()))]
    single = directory / "model.safetensors"
    return [single] if single.is_file() else sorted(directory.glob("*.safetensors"))


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from None
