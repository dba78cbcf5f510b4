"""The demo as a Hugging Face directory, the cache around it, and directories that are refused."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trtllm_openai.checkpoints import cache, display_name, resolve
from trtllm_openai.checkpoints.convert import unpermute
from trtllm_openai.checkpoints.metadata import read_eos_token_ids
from trtllm_openai.checkpoints.safetensors_file import to_bfloat16
from trtllm_openai.errors import CheckpointError
from trtllm_openai.text.tokenizer import Tokenizer


def quiet(fraction: float, what: str) -> None:
    assert 0 <= fraction <= 1
    assert what


def test_demo_is_a_model_that_transformers_loads_and_that_knows_paris(
    demo_dir: Path, demo_tokenizer: Tokenizer
) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_dir, dtype=torch.float32)
    ids = demo_tokenizer.encode("The capital of France is", add_special_tokens=True)
    out = model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False)[0, len(ids) :]
    assert demo_tokenizer.decode(out.tolist()).startswith(" Paris")
    config = json.loads((demo_dir / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert (config["num_hidden_layers"], config["rope_theta"]) == (30, 100000.0)


def test_second_resolve_does_nothing(demo_dir: Path) -> None:
    started = time.perf_counter()
    assert resolve("demo", demo_dir.parent, quiet) == demo_dir
    assert time.perf_counter() - started < 0.5
    assert display_name("demo", demo_dir) == "SmolLM2-135M-Instruct"


def test_directories_are_taken_as_they_are(demo_dir: Path, tmp_path: Path) -> None:
    assert resolve(str(demo_dir), tmp_path, quiet) == demo_dir
    assert display_name(str(demo_dir), demo_dir) == demo_dir.name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "config.json cannot be read as JSON"),
        ({"config.json": "[]"}, "does not hold a JSON object"),
        ({"config.json": "{}"}, r"no \*.safetensors weights"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "only .bin files"),
        ({"config.json": "{}", "model.safetensors": "version https://git-lfs.github.com"}, "git lfs pull"),
        (
            {
                "config.json": "{}",
                "a.safetensors": "x",
                "model.safetensors.index.json": '{"weight_map": {"x": "b.safetensors"}}',
            },
            "lacks weights: b.safetensors",
        ),
    ],
)
def test_directories_that_cannot_be_served(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        resolve(str(tmp_path), tmp_path / "cache", quiet)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "Nothing is downloaded"),
        ("absent.gguf", None, "does not exist"),
        ("notes.txt", b"x", "neither a directory nor a .gguf file"),
        ("broken.gguf", b"GGUF\x03", "damaged or cut off"),
        ("other.gguf", b"not gguf at all, really", "is not a GGUF file"),
    ],
)
def test_files_that_cannot_be_served(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        resolve(str(tmp_path / name), tmp_path / "cache", quiet)
    assert not list((tmp_path / "cache").glob("*")), "a failed conversion left something"


def test_cut_off_demo(tmp_path: Path, demo_dir: Path) -> None:
    from trtllm_openai.checkpoints.resolve import _demo_file

    path, _ = _demo_file()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:5_000_000])
    with pytest.raises(CheckpointError, match="cut"):
        resolve(str(cut), tmp_path / "cache", quiet)


def test_unpermute_undoes_llama_cpps_permutation() -> None:
    heads, dim = 3, 8
    weight = np.random.default_rng(1).normal(size=(heads * dim, 5)).astype(np.float32)
    permuted = weight.reshape(heads, 2, dim // 2, 5).swapaxes(1, 2).reshape(weight.shape)
    assert (unpermute(permuted, heads) == weight).all()


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(2).normal(size=10_000).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 3.3895314e38]
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert (to_bfloat16(values) == expected).all()


def test_weights_on_disk_are_those_of_the_config(demo_dir: Path) -> None:
    tensors = load_file(demo_dir / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert len(tensors) == 2 + 9 * 30


def test_many_builders_one_result(tmp_path: Path) -> None:
    built: list[Path] = []
    barrier = threading.Barrier(4)

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "file").write_text("whole")

    def one() -> None:
        barrier.wait()
        cache.build_once(tmp_path / "x" / "target", ["file"], build)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x" / "target" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["target"]


def test_eos_ids(tmp_path: Path) -> None:
    assert read_eos_token_ids(tmp_path) == ()
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert read_eos_token_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert read_eos_token_ids(tmp_path) == (8, 9)
