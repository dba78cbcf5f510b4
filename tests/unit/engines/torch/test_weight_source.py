"""Other sources of tensors: read by threads, with the promises of `Weights`, or made up."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trtllm_openai.engines.torch.weight_source import READERS, SPREAD, ParallelWeights, RandomWeights
from trtllm_openai.errors import CheckpointError

CPU = torch.device("cpu")
TENSORS = {f"layer.{index}": torch.full((6, 4), float(index)) for index in range(3 * READERS)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


def test_threads_give_the_right_tensors_in_any_order(directory: Path) -> None:
    heard: list[float] = []
    subject = ParallelWeights(directory, torch.bfloat16, CPU, heard.append)
    for name in reversed(TENSORS):
        assert torch.equal(subject.take(name, 6, 4), TENSORS[name].bfloat16())
        assert not subject.has(name)
    subject.check_all_taken()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_threads_keep_the_promises_of_weights(directory: Path) -> None:
    subject = ParallelWeights(directory, torch.float32, CPU)
    assert torch.equal(subject.take("layer.5", 6, 4, part=slice(1, 3), axis=1), TENSORS["layer.5"][:, 1:3])
    with pytest.raises(CheckpointError, match=r"lacks the tensor layer\.5"):
        subject.take("layer.5", 6, 4)
    with pytest.raises(CheckpointError, match=r"layer\.6 has the shape \[6, 4\]"):
        subject.take("layer.6", 4, 6)
    subject.drop("layer.7")
    with pytest.raises(CheckpointError, match=r"does not use: layer\.0, ") as caught:
        subject.check_all_taken()
    assert "layer.7" not in str(caught.value)


def test_made_up_tensors_have_the_asked_shape_and_spread() -> None:
    subject = RandomWeights(torch.float32, CPU)
    matrix = subject.take("w", 400, 300)
    assert matrix.shape == (400, 300)
    assert float(matrix.std()) == pytest.approx(SPREAD, rel=0.02)
    assert subject.take("w", 400, 300, part=slice(100, 150)).shape == (50, 300)
    assert subject.take("w", 400, 300, part=slice(299, None), axis=1).shape == (400, 1)
    assert torch.equal(subject.take("norm", 7), torch.ones(7))
    assert not subject.has("w.bias")


def test_made_up_tensors_are_the_same_every_time() -> None:
    one, other = (RandomWeights(torch.bfloat16, CPU) for _ in range(2))
    first = one.take("a", 5, 5)
    assert torch.equal(first, other.take("b", 5, 5))
    assert not torch.equal(first, one.take("a", 5, 5))
