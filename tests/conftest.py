"""What tests of several parts share: the demo model, as the server itself would find it, and a part of it."""

import gc
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from trtllm_openai import checkpoints
from trtllm_openai.config import Settings
from trtllm_openai.text.tokenizer import Tokenizer

PACKAGE_ROOT = Path(__file__).parents[1] / "app"


def python_path(*directories: Path) -> str:
    """A PYTHONPATH of these directories and this checkout's package."""
    return os.pathsep.join(map(str, (*directories, PACKAGE_ROOT)))


os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [python_path(), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module", autouse=True)
def collect_garbage() -> Iterator[None]:
    """Let a socket or file that a module leaves open fail that module, and not a later one."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """The demo's checkpoint, converted if it was not yet."""
    return checkpoints.resolve("demo", Settings().cache_path, lambda fraction, what: None)


@pytest.fixture(scope="session")
def demo_tokenizer(demo_dir: Path) -> Tokenizer:
    return Tokenizer.load(demo_dir)


@pytest.fixture(scope="session")
def few_layers(demo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with the first 4 of its 30 layers: it babbles, but several times as fast."""
    layers = 4
    directory = tmp_path_factory.mktemp("few-layers")
    for file in demo_dir.glob("*.json"):
        shutil.copy(file, directory)
    config = json.loads((demo_dir / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    with safe_open(demo_dir / "model.safetensors", "pt") as file:
        kept = {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118, not a dict
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
        }
    save_file(kept, directory / "model.safetensors")
    return directory


@pytest.fixture
def chance() -> random.Random:
    """Random numbers from a fixed seed; TEST_SEED in the environment draws others."""
    seed = os.environ.get("TEST_SEED", "0")
    print(f"TEST_SEED={seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the faults led to (`outcome` in tests/faults)."""
    outcomes = [
        value
        for report in terminalreporter.getreports("passed")
        for key, value in report.user_properties
        if key == "outcome"
    ]
    if outcomes:
        terminalreporter.section("faults and outcomes")
        width = max(len(name) for name, _ in outcomes)
        for name, text in outcomes:
            terminalreporter.write_line(f"{name:<{width}}  {text}")
