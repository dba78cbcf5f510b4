"""bfloat16 tensors, rounded and written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trtllm_openai.checkpoints.safetensors_file import to_bfloat16, write_bfloat16


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(2).normal(size=10_000).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 3.3895314e38]
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert (to_bfloat16(values) == expected).all()


def test_a_written_file_is_read_by_safetensors(tmp_path: Path) -> None:
    one, two = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5, -2.0, 3.0], np.float32)
    reported: list[float] = []
    path = tmp_path / "model.safetensors"
    write_bfloat16(path, {"one": ((2, 3), lambda: one), "two": ((3,), lambda: two)}, reported.append)
    found = load_file(path)
    assert list(found) == ["one", "two"]
    assert torch.equal(found["one"].float(), torch.from_numpy(one))
    assert torch.equal(found["two"].float(), torch.from_numpy(two))
    assert reported == [pytest.approx(12 / 18), 1.0]


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x has shape"):
        write_bfloat16(tmp_path / "f", {"x": ((2,), lambda: np.zeros(3, np.float32))}, lambda fraction: None)
