"""Writes bfloat16 tensors into a .safetensors file one at a time: only one is in memory, not the model.

Format: 8 bytes of header length (little endian), a JSON header, the tensors' bytes.
https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Load = Callable[[], Floats]


def to_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """Bit patterns of the finite `values` in bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    halfway = (bits >> np.uint32(16)) & np.uint32(1)
    halfway += np.uint32(0x7FFF)
    halfway += bits
    halfway >>= np.uint32(16)
    return halfway.astype("<u2")


def write_bfloat16(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], Load]], progress: Callable[[float], None]
) -> None:
    """Write `tensors` in order; each has a shape and a loader of its float32 values."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, _) in tensors.items():
        start, end = end, end + 2 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors to 8 bytes
    written = 0
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name, (shape, load) in tensors.items():
            values = load()
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, not {shape}")
            written += file.write(to_bfloat16(values).data.cast("B"))
            progress(written / end)
