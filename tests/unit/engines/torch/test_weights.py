"""Tensors of a checkpoint: each is handed out once, with its shape checked, and none is left over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trtllm_openai.engines.torch.weights import Weights
from trtllm_openai.errors import CheckpointError

CPU = torch.device("cpu")
TENSORS = {
    "a": torch.arange(24.0).view(4, 6),
    "b": torch.arange(5.0) / 7,
    "c": torch.full((2, 2), 3.0),
    "layers.0.rotary_emb.inv_freq": torch.ones(3),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


def weights(directory: Path, dtype: torch.dtype = torch.float32) -> Weights:
    return Weights(directory, dtype, CPU)


def test_each_is_handed_out_once(directory: Path) -> None:
    subject = weights(directory)
    assert subject.has("a")
    assert torch.equal(subject.take("a", 4, 6), TENSORS["a"])
    assert not subject.has("a")
    with pytest.raises(CheckpointError, match="lacks the tensor a"):
        subject.take("a", 4, 6)


def test_they_are_converted(directory: Path) -> None:
    taken = weights(directory, torch.bfloat16).take("b", 5)
    assert torch.equal(taken, TENSORS["b"].bfloat16())


@pytest.mark.parametrize(
    ("part", "axis"), [(slice(1, 3), 0), (slice(4, 6), 1), (slice(6, 6), 1), (slice(None), 1)]
)
def test_a_part_of_one(directory: Path, part: slice, axis: int) -> None:
    expected = TENSORS["a"][part] if axis == 0 else TENSORS["a"][:, part]
    assert torch.equal(weights(directory).take("a", 4, 6, part=part, axis=axis), expected)


def test_another_shape_is_refused_also_for_a_part(directory: Path) -> None:
    for part in (slice(None), slice(0, 2)):
        with pytest.raises(CheckpointError, match=r"a has the shape \[4, 6\], but config.json says \[6, 4\]"):
            weights(directory).take("a", 6, 4, part=part)


def test_progress_is_the_share_handed_out(directory: Path) -> None:
    heard: list[float] = []
    subject = Weights(directory, torch.float32, CPU, heard.append)
    subject.drop("layers.0.rotary_emb.inv_freq")
    subject.take("a", 4, 6)
    subject.take("b", 5)
    subject.take("c", 2, 2)
    assert heard == pytest.approx([0.5, 0.75, 1.0])


def test_what_is_left_over_is_named(directory: Path) -> None:
    subject = weights(directory)
    subject.take("a", 4, 6)
    subject.drop("b")
    subject.drop("unknown")
    with pytest.raises(CheckpointError, match=r"does not use: c\.$"):
        subject.check_all_taken()
    subject.take("c", 2, 2)
    subject.check_all_taken()  # inv_freq follows from the configuration


def test_many_left_over_are_counted(tmp_path: Path) -> None:
    save_file({f"expert.{index}": torch.zeros(1) for index in range(5)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"expert\.0, expert\.1, expert\.2 and 2 more\.$"):
        weights(tmp_path).check_all_taken()


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_an_index(tmp_path: Path, index: bool) -> None:
    save_file({"a": TENSORS["a"]}, tmp_path / "model-1.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "model-2.safetensors")
    if index:
        save_file({"c": TENSORS["c"]}, tmp_path / "consolidated.safetensors")  # the same again, for others
        places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    subject = weights(tmp_path)
    assert torch.equal(subject.take("a", 4, 6), TENSORS["a"])
    assert torch.equal(subject.take("b", 5), TENSORS["b"])
    subject.check_all_taken()


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors cannot be read"):
        weights(tmp_path)
