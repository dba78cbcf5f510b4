"""The fake tensorrt_llm, importable as the real one would be."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import make_engine_dir
from tests.fakes.shim import require_shim
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine
from trtllm_openai.engines.tensorrt_llm.guided_requests import GuidedRequests
from trtllm_openai.engines.tensorrt_llm.loader import load
from trtllm_openai.processes.mpi import SPAWN_ENVIRONMENT
from trtllm_openai.text.tokenizer import Tokenizer

FAKES = Path(__file__).parents[3] / "fakes"
EOS = (2, 4)


@pytest.fixture(autouse=True, scope="session")
def shim() -> None:
    require_shim()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExecutorEngine]]:
    """Makes an engine over the fake: `engine(world=…, settings={…}, build={…}, **behaviour)`."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    forget_what_is_set(monkeypatch, *SPAWN_ENVIRONMENT)
    spawned: list[ExecutorEngine] = []

    def make(
        world: int = 1,
        settings: dict[str, Any] | None = None,
        build: dict[str, Any] | None = None,
        tokenizer: Path | None = None,
        separate_prefixes: bool = False,
        **behaviour: Any,
    ) -> ExecutorEngine:
        monkeypatch.setenv("FAKE_TRTLLM", json.dumps({"record": str(tmp_path / "record"), **behaviour}))
        directory = make_engine_dir(tmp_path / "model", world, **(build or {}))
        made = load(
            directory / "engine",
            tokenizer or directory,
            TensorRTLLMSettings(**(settings or {})),
            EOS,
            lambda *_: None,
            lambda: Tokenizer.load(tokenizer or directory).vocabulary(),
            separate_prefixes=separate_prefixes,
        )
        if world > 1:
            spawned.append(made)
        guided.append(made._guided)
        return made

    guided: list[GuidedRequests] = []
    yield make
    for one in spawned:
        one.shutdown(1.0)
    for requests in guided:
        requests.close()
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def forget_what_is_set(monkeypatch: pytest.MonkeyPatch, *variables: str) -> None:
    """Undo, after the test, what it or the code sets in the environment."""
    for name in variables:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def record(tmp_path: Path, what: str) -> list[dict[str, Any]]:
    """What the executor was asked."""
    lines = (tmp_path / "record").read_text().splitlines()
    return [fact for fact in map(json.loads, lines) if fact["what"] == what]
