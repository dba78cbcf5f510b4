"""Counts of the weights of a checkpoint, from the headers of its safetensors files: no weight is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_openai.errors import CheckpointError

PACKED = (".qweight", ".weight_packed")
BESIDE = (".qzeros", ".scales", ".g_idx", "_scale", "_zero_point", "_shape", "_g_idx")
"""Suffixes of the tensors beside quantized weights."""
LARGEST_HEADER = 100 * 2**20
"""Bytes; the bound of the safetensors library."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """`parameters`: weights stored, in `size` bytes. `dtypes`: those that hold them, the most common first.

    Packed 4-bit weights are counted one by one, as I4; scales and zero points only in `size`.
    """

    files: int
    parameters: int
    size: int
    dtypes: tuple[str, ...]


def count_weights(directory: Path) -> WeightFiles:
    """Count the weights in `directory`/*.safetensors. Raises `CheckpointError` for a damaged header."""
    files = sorted(directory.glob("*.safetensors"))
    numbers: dict[str, int] = {}
    size = 0
    for file in files:
        for name, tensor in _header(file).items():
            if name == "__metadata__":
                continue
            dtype, count = _numbers(name, tensor)
            numbers[dtype] = numbers.get(dtype, 0) + count
            begin, end = tensor["data_offsets"]
            size += end - begin
    dtypes = tuple(sorted(numbers, key=lambda dtype: -numbers[dtype]))
    return WeightFiles(len(files), sum(numbers.values()), size, dtypes)


def _numbers(name: str, tensor: dict[str, Any]) -> tuple[str, int]:
    """The dtype and number of weights in a tensor."""
    count = math.prod(tensor["shape"])
    if tensor["dtype"] == "I32" and name.endswith(PACKED):
        return "I4", 8 * count
    return tensor["dtype"], 0 if name.endswith(BESIDE) else count


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError("its header is longer than the format allows")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            return header
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from None
