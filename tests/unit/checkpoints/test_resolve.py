"""Models that are resolved, and those that are refused with the reason."""

from pathlib import Path

import pytest

from trtllm_openai.checkpoints import display_name, resolve
from trtllm_openai.errors import CheckpointError


def quiet(fraction: float, what: str) -> None:
    assert 0 <= fraction <= 1
    assert what


def test_second_resolve_does_nothing(demo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr("trtllm_openai.checkpoints.convert.convert_gguf", convert)
    assert resolve("demo", demo_dir.parent, quiet) == demo_dir
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
        ("absent", None, "an id of the Hugging Face hub"),
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
